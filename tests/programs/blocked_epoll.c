// epoll_wait(2), which any stop would end with EINTR, is ended only by an event after the move.
#include "blocked.h"
#include <sys/epoll.h>

static int set, fds[2];

static void prepare(void)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = 7};

	set = MUST(epoll_create1(0));
	MUST(pipe(fds));
	MUST(epoll_ctl(set, EPOLL_CTL_ADD, fds[0], &event));
}

static long blocked_call(void)
{
	struct epoll_event event;

	return epoll_wait(set, &event, 1, LONG_S * 1000) == 1 ? (long)event.data.u32 : -1;
}

static void wake_up(void)
{
	EQUAL(write(fds[1], "x", 1), 1);
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_epoll_wait, 7);
}
