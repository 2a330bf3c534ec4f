// An epoll set watches every kind of descriptor that can wait: pipe, timer, signal, listener and another set.
#include "check.h"
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>

static int outer, inner;

static void watch(int set, int fd, uint32_t value)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = value};

	MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
}

static void expect(int set, uint32_t value)
{
	struct epoll_event event;

	EQUAL(epoll_wait(set, &event, 1, 5000), 1);
	EQUAL(event.data.u32, value);
}

int main(int argc, char **argv)
{
	struct itimerspec soon = {.it_value.tv_nsec = 1000 * 1000};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fds[2], timer, signals, listener;
	uint64_t ticks;
	sigset_t mask;

	check_init(argc, argv);
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	MUST(sigprocmask(SIG_BLOCK, &mask, NULL));
	outer = MUST(epoll_create1(0));
	inner = MUST(epoll_create1(0));
	MUST(pipe(fds));
	timer = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
	signals = MUST(signalfd(-1, &mask, 0));
	listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t))); /* the kernel names it */
	MUST(listen(listener, 1));
	watch(inner, timer, 1);
	watch(inner, signals, 2);
	watch(outer, fds[0], 3);
	watch(outer, listener, 4);
	watch(outer, inner, 5);
	check_ready_and_wait();
	MUST(timerfd_settime(timer, 0, &soon, NULL));
	expect(outer, 5);
	expect(inner, 1);
	EQUAL(read(timer, &ticks, sizeof(ticks)), sizeof(ticks));
	MUST(raise(SIGUSR1));
	expect(inner, 2);
	MUST(epoll_ctl(outer, EPOLL_CTL_DEL, inner, NULL));
	EQUAL(write(fds[1], "x", 1), 1);
	expect(outer, 3);
	return check_pass();
}
