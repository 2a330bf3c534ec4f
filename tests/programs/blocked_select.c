// select(2) with a timeout is not ended by the move, but by its descriptor becoming ready after it.
#include "blocked.h"
#include <sys/select.h>

static int fds[2];

static void prepare(void)
{
	MUST(pipe(fds));
}

static long blocked_call(void)
{
	struct timeval timeout = {.tv_sec = LONG_S};
	fd_set watched;

	FD_ZERO(&watched);
	FD_SET(fds[0], &watched);
	return syscall(SYS_select, fds[0] + 1, &watched, NULL, NULL, &timeout);
}

static void wake_up(void)
{
	EQUAL(write(fds[1], "x", 1), 1);
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_select, 1);
}
