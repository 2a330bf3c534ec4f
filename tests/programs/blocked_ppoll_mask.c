// ppoll(2) waiting under a signal mask of its own gives the thread its old mask back after the move.
#include "signalled.h"
#include <poll.h>

static void prepare(void)
{
	sigset_t blocked;

	signalled_prepare();
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	MUST(sigprocmask(SIG_BLOCK, &blocked, NULL));
}

static long blocked_call(void)
{
	const struct timespec timeout = {.tv_sec = LONG_S};
	sigset_t during, after;

	sigemptyset(&during);
	sigaddset(&during, SIGUSR2);
	EQUAL(ppoll(NULL, 0, &timeout, &during), -1);
	EQUAL(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
	EQUAL(sigismember(&after, SIGUSR1), 1);
	EQUAL(sigismember(&after, SIGUSR2), 0);
	return handled;
}

static void wake_up(void)
{
	signalled_wake_up();
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_ppoll, SIGUSR1);
}
