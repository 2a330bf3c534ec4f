// An epoll set keeps its targets, events and user values; what is ready is told, a fired one-shot stays silent.
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

#define READY 0x1111111122222222UL
#define EDGE 2UL
#define FIRED 3UL
#define WRITABLE 4UL

static int set;

static int watched(uint64_t value, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.u64 = value};
	int fd = MUST(eventfd(0, EFD_NONBLOCK));

	MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
	return fd;
}

static int wait_one(struct epoll_event *event)
{
	return MUST(epoll_wait(set, event, 1, 0));
}

int main(int argc, char **argv)
{
	struct epoll_event event, rearmed = {.events = EPOLLIN, .data.u64 = FIRED};
	int ready, edge, fired, full;
	eventfd_t value;

	check_init(argc, argv);
	set = MUST(epoll_create1(EPOLL_CLOEXEC));
	ready = watched(READY, EPOLLIN);
	edge = watched(EDGE, EPOLLIN | EPOLLET);
	fired = watched(FIRED, EPOLLIN | EPOLLONESHOT);
	full = watched(WRITABLE, EPOLLOUT | EPOLLRDHUP);
	MUST(eventfd_write(full, 0xfffffffffffffffeUL));
	MUST(eventfd_write(fired, 1));
	EQUAL(wait_one(&event), 1);
	EQUAL(event.data.u64, FIRED); /* and is disarmed from now on */
	MUST(eventfd_write(ready, 1));
	check_ready_and_wait();
	EQUAL(wait_one(&event), 1);
	EQUAL(event.data.u64, READY);
	EQUAL(event.events, EPOLLIN);
	MUST(eventfd_read(ready, &value));
	EQUAL(wait_one(&event), 0);
	MUST(eventfd_write(edge, 1));
	EQUAL(wait_one(&event), 1);
	EQUAL(event.data.u64, EDGE);
	EQUAL(wait_one(&event), 0); /* an edge is told once */
	MUST(eventfd_read(full, &value));
	EQUAL(wait_one(&event), 1);
	EQUAL(event.data.u64, WRITABLE);
	MUST(eventfd_write(full, 0xfffffffffffffffeUL));
	MUST(epoll_ctl(set, EPOLL_CTL_MOD, fired, &rearmed));
	EQUAL(wait_one(&event), 1);
	EQUAL(event.data.u64, FIRED);
	return check_pass();
}
