// pidfds of a child, of a zombie, of the parent and of oneself still mean the same processes.
#include "tree.h"

#include <sys/syscall.h>

static int open_pid(pid_t pid, unsigned int flags)
{
	return MUST((int)syscall(SYS_pidfd_open, pid, flags));
}

static bool has_ended(int pidfd)
{
	struct pollfd one = {.fd = pidfd, .events = POLLIN};

	return MUST(poll(&one, 1, 0)) == 1;
}

static int end_of(int pidfd)
{
	siginfo_t how = {0};

	MUST(waitid(P_PIDFD, pidfd, &how, WEXITED));
	return how.si_status;
}

int main(int argc, char **argv)
{
	pid_t child, dead;

	tree_init(argc, argv);
	int own = open_pid(getpid(), O_NONBLOCK);
	child = MUST(fork());
	if (child == 0) {
		int parent = open_pid(getppid(), 0);

		tree_wait();
		CHECK(!has_ended(parent));
		MUST((int)syscall(SYS_pidfd_send_signal, parent, SIGURG, NULL, 0));
		_exit(0);
	}
	dead = MUST(fork());
	if (dead == 0)
		_exit(7);
	int living = open_pid(child, 0), zombie = open_pid(dead, 0);
	tree_wait_zombie(dead);
	tree_ready_and_wait(1);
	CHECK(fcntl(own, F_GETFL) & O_NONBLOCK);
	CHECK(!has_ended(own));
	CHECK(has_ended(zombie));
	EQUAL(end_of(zombie), 7);
	EQUAL(end_of(living), 0);
	CHECK(has_ended(living));
	EQUAL(access(in_dir("result"), F_OK), -1);
	return check_pass();
}
