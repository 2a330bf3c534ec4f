// poll(2) with a timeout is not ended by the move, but by its descriptor becoming ready after it.
#include "blocked.h"
#include <poll.h>

static int fds[2];

static void prepare(void)
{
	MUST(pipe(fds));
}

static long blocked_call(void)
{
	struct pollfd watched = {.fd = fds[0], .events = POLLIN};

	return poll(&watched, 1, LONG_S * 1000) == 1 ? watched.revents : -1;
}

static void wake_up(void)
{
	EQUAL(write(fds[1], "x", 1), 1);
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_poll, POLLIN);
}
