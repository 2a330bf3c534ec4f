// An epoll set keeps watching files by numbers that were closed or given to other files since.
#include "check.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

static void watch(int set, int fd, uint64_t data)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = data};

	MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
}

static uint64_t next(int set)
{
	struct epoll_event event = {0};

	EQUAL(epoll_wait(set, &event, 1, 1000), 1);
	return event.data.u64;
}

int main(int argc, char **argv)
{
	struct epoll_event none;
	uint64_t one = 1;

	check_init(argc, argv);
	int set = MUST(epoll_create1(EPOLL_CLOEXEC));
	int closed = MUST(eventfd(0, EFD_NONBLOCK)), reused = MUST(eventfd(0, EFD_NONBLOCK));
	int first = MUST(fcntl(closed, F_DUPFD, 50)), second = MUST(fcntl(reused, F_DUPFD, 60));
	watch(set, closed, 11);
	watch(set, reused, 22);
	int other = MUST(eventfd(5, EFD_CLOEXEC));
	EQUAL(dup3(other, reused, O_CLOEXEC), reused);
	MUST(close(closed));

	check_ready_and_wait();

	EQUAL(epoll_wait(set, &none, 1, 0), 0);
	EQUAL(write(first, &one, 8), 8);
	EQUAL(next(set), 11);
	EQUAL(write(second, &one, 8), 8);
	EQUAL(next(set), 22);
	EQUAL(fcntl(closed, F_GETFD), -1);
	EQUAL(fcntl(reused, F_GETFD), FD_CLOEXEC);
	EQUAL(read(reused, &one, 8), 8);
	EQUAL(one, 5);
	MUST(close(second)); /* the last descriptor: it leaves the set */
	EQUAL(epoll_wait(set, &none, 1, 0), 0);
	return check_pass();
}
