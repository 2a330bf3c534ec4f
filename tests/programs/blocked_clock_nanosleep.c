// A sleep until a date on the monotonic clock is not ended by the move, but by a signal after it.
#include "signalled.h"

static void prepare(void)
{
	signalled_prepare();
}

static long blocked_call(void)
{
	struct timespec until;

	MUST(clock_gettime(CLOCK_MONOTONIC, &until));
	until.tv_sec += LONG_S;
	EQUAL(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL), EINTR);
	return handled;
}

static void wake_up(void)
{
	signalled_wake_up();
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_clock_nanosleep, SIGUSR1);
}
