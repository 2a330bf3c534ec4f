// read(2) on an empty pipe is not ended by the move, but by the first byte after it.
#include "blocked.h"

static int fds[2];

static void prepare(void)
{
	MUST(pipe(fds));
}

static long blocked_call(void)
{
	char byte;

	return read(fds[0], &byte, 1);
}

static void wake_up(void)
{
	EQUAL(write(fds[1], "x", 1), 1);
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_read, 1);
}
