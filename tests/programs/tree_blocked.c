// A parent inside waitpid, and a SIGCHLD that waits blocked, come back; the child's end is told as if nothing had been.
#include "tree.h"

static pid_t blocked_child;
static volatile int waited = -1;

static void *wait_for_child(void *unused)
{
	int status = -1;

	(void)unused;
	EQUAL(write(tree_met[1], "+", 1), 1);
	EQUAL(waitpid(blocked_child, &status, 0), blocked_child);
	waited = status;
	return NULL;
}

int main(int argc, char **argv)
{
	sigset_t chld, pending;
	pthread_t waiter;
	siginfo_t how;
	pid_t dead;

	tree_init(argc, argv);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	EQUAL(pthread_sigmask(SIG_BLOCK, &chld, NULL), 0);
	dead = MUST(fork());
	if (dead == 0)
		_exit(5);
	tree_wait_zombie(dead);
	blocked_child = MUST(fork());
	if (blocked_child == 0) {
		tree_wait();
		_exit(6);
	}
	waiter = thread_start(wait_for_child, NULL);
	tree_ready_and_wait(2);
	MUST(sigpending(&pending));
	EQUAL(sigismember(&pending, SIGCHLD), 1);
	EQUAL(sigwaitinfo(&chld, &how), SIGCHLD);
	EQUAL(how.si_pid, dead);
	EQUAL(how.si_code, CLD_EXITED);
	EQUAL(how.si_status, 5);
	EQUAL(tree_ended(dead), 5 << 8);
	thread_join(waiter);
	EQUAL(waited, 6 << 8);
	return check_pass();
}
