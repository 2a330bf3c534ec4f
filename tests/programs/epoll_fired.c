// An EPOLLONESHOT that has fired tells of nothing, of no end either, until it is armed again.
#include "check.h"

#include <sys/epoll.h>
#include <sys/socket.h>

static int set;

/* One that has fired by `fd`, which is readable; `flags` are kept. */
static void fire(int fd, uint32_t flags, uint64_t value)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT | flags, .data.u64 = value};

	MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
	EQUAL(epoll_wait(set, &event, 1, 0), 1);
	EQUAL(event.data.u64, value);
}

static void check_silent(void)
{
	struct epoll_event event;

	if (epoll_wait(set, &event, 1, 0))
		check_fail("%llu told of %x", (unsigned long long)event.data.u64, event.events);
}

static void check_armed(int fd, uint32_t expected)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 99};

	MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
	EQUAL(epoll_wait(set, &event, 1, 0), 1);
	EQUAL(event.data.u64, 99);
	EQUAL(event.events, expected);
}

int main(int argc, char **argv)
{
	int filled[2], read_out[2], ended[2], gone[2], copy;
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 7};
	char byte;

	check_init(argc, argv);
	set = MUST(epoll_create1(0));
	MUST(pipe(filled));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, read_out));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ended));
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, gone));
	EQUAL(write(filled[1], "a", 1), 1);
	EQUAL(write(read_out[1], "a", 1), 1);
	EQUAL(write(gone[1], "a", 1), 1);
	MUST(close(ended[1]));
	fire(filled[0], 0, 1);
	copy = MUST(dup(filled[0])); /* the same file by a second number */
	fire(copy, EPOLLET, 2);
	fire(read_out[0], 0, 3);
	fire(ended[0], 0, 4);
	fire(gone[0], EPOLLET, 5); /* known by a number that it does not have any more */
	EQUAL(MUST(dup2(gone[0], gone[1])), gone[1]);
	MUST(close(gone[0]));
	EQUAL(read(read_out[0], &byte, 1), 1);
	MUST(epoll_ctl(set, EPOLL_CTL_ADD, read_out[1], &event));
	check_silent();
	check_ready_and_wait();
	check_silent();
	MUST(close(filled[1]));
	check_silent();
	EQUAL(write(read_out[0], "b", 1), 1); /* who has not fired is not silent */
	EQUAL(epoll_wait(set, &event, 1, 0), 1);
	EQUAL(event.data.u64, 7);
	MUST(close(read_out[1]));
	check_silent();
	check_armed(filled[0], EPOLLIN | EPOLLHUP);
	check_armed(copy, EPOLLIN | EPOLLHUP);
	check_armed(read_out[0], EPOLLIN | EPOLLHUP | EPOLLERR);
	check_armed(ended[0], EPOLLIN | EPOLLHUP);
	return check_pass();
}
