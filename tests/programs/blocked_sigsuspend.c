// sigsuspend(2) is not ended by the move, but by the signal it waits for, and the thread's own mask comes back.
#include "signalled.h"

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
	sigset_t during, after;

	sigemptyset(&during);
	EQUAL(sigsuspend(&during), -1);
	EQUAL(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
	EQUAL(sigismember(&after, SIGUSR1), 1);
	return handled;
}

static void wake_up(void)
{
	signalled_wake_up();
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_rt_sigsuspend, SIGUSR1);
}
