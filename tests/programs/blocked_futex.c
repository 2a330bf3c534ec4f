// A futex wait with a timeout is not ended by the move, but by a wake-up after it.
#include "blocked.h"
#include <linux/futex.h>

static uint32_t word;

static void prepare(void)
{
}

static long blocked_call(void)
{
	const struct timespec timeout = {.tv_sec = LONG_S};

	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &timeout, NULL, 0);
}

static void wake_up(void)
{
	MUST(syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0));
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_futex, 0);
}
