// sigtimedwait(2), which any stop would end with EINTR, is ended only by the awaited signal after the move.
#include "blocked.h"

static sigset_t awaited;

static void prepare(void)
{
	sigemptyset(&awaited);
	sigaddset(&awaited, SIGUSR1);
	MUST(sigprocmask(SIG_BLOCK, &awaited, NULL));
}

static long blocked_call(void)
{
	const struct timespec timeout = {.tv_sec = LONG_S};

	return syscall(SYS_rt_sigtimedwait, &awaited, NULL, &timeout, 8); /* the library hides EINTR */
}

static void wake_up(void)
{
	EQUAL(pthread_kill(blocked_thread, SIGUSR1), 0);
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_rt_sigtimedwait, SIGUSR1);
}
