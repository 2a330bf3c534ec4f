// A long nanosleep(2) is not ended by the move, but by a signal after it, and then tells what was left.
#include "signalled.h"

static void prepare(void)
{
	signalled_prepare();
}

static long blocked_call(void)
{
	const struct timespec duration = {.tv_sec = LONG_S};
	struct timespec left = {};

	EQUAL(syscall(SYS_nanosleep, &duration, &left), -1);
	CHECK(left.tv_sec < LONG_S && left.tv_sec > LONG_S / 2);
	return handled;
}

static void wake_up(void)
{
	signalled_wake_up();
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_nanosleep, SIGUSR1);
}
