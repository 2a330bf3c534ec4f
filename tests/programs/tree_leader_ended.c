// A child whose first thread has ended: its parent gets the status when the last thread ends, its own child no signal.
#include "ended.h"
#include "tree.h"

#define STATUS 23

static _Atomic bool met;
static _Atomic pid_t first_tid;

/* What stands last in its stat: the status that it left. */
static long leader_status(void)
{
	char path[64], text[1024] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", getpid());
	fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	MUST(read(fd, text, sizeof(text) - 1));
	close(fd);
	return strtol(strrchr(text, ' '), NULL, 10);
}

static pid_t start_grandchild(void)
{
	pid_t child = MUST(fork());

	if (child == 0) {
		MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
		close(tree_gate[1]);
		EQUAL(write(tree_met[1], "+", 1), 1);
		for (;;)
			pause();
	}
	return child;
}

static void *end_first(void *argument)
{
	pid_t grandchild;

	first_tid = gettid();
	leader_wait_ended();
	grandchild = start_grandchild();
	tree_wait();
	leader_wait_ended();
	EQUAL(leader_status(), STATUS << 8);
	EQUAL(waitpid(grandchild, NULL, WNOHANG), 0);
	MUST(kill(grandchild, SIGTERM));
	EQUAL(tree_ended(grandchild), SIGTERM);
	met = true;
	syscall(SYS_exit, 7); /* of a thread: nobody asks */
	return argument;
}

static void *end_last(void *argument)
{
	while (!met || thread_is_there(first_tid))
		check_nap();
	syscall(SYS_exit, STATUS); /* which of them counts, the first's or the last's, changed with Linux 5.18 */
	return argument;
}

static pid_t start_child(void)
{
	pid_t child = MUST(fork());

	if (child == 0) {
		thread_start(end_first, NULL);
		thread_start(end_last, NULL);
		syscall(SYS_exit, STATUS);
	}
	return child;
}

int main(int argc, char **argv)
{
	pid_t child;

	tree_init(argc, argv);
	child = start_child();
	tree_meet(2);
	check_ready_and_wait();
	EQUAL(waitpid(child, NULL, WNOHANG), 0);
	close(tree_gate[1]);
	EQUAL(tree_ended(child), STATUS << 8);
	return check_pass();
}
