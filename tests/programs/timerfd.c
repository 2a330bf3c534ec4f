// Timer descriptors keep clock, interval, what is left, and ticks not yet read; absolute ones their date.
#include "check.h"
#include <sys/timerfd.h>

#define HOUR_S 3600

static int timer_start(int clock, int flags, struct itimerspec setting)
{
	int fd = MUST(timerfd_create(clock, TFD_NONBLOCK));

	MUST(timerfd_settime(fd, flags, &setting, NULL));
	return fd;
}

static uint64_t ticks_of(int fd)
{
	uint64_t ticks = 0;

	EQUAL(read(fd, &ticks, sizeof(ticks)), sizeof(ticks));
	return ticks;
}

int main(int argc, char **argv)
{
	int periodic, remote, unread, dated, idle;
	struct itimerspec left;
	uint64_t none;

	check_init(argc, argv);
	unread = timer_start(CLOCK_MONOTONIC, 0, (struct itimerspec){.it_value.tv_nsec = 1});
	periodic = timer_start(CLOCK_MONOTONIC, 0, (struct itimerspec){{0, 30000000}, {0, 30000000}});
	remote = timer_start(CLOCK_BOOTTIME, 0, (struct itimerspec){{2, 500}, {HOUR_S, 0}});
	dated = timer_start(CLOCK_REALTIME, TFD_TIMER_ABSTIME,
			    (struct itimerspec){.it_value.tv_sec = time(NULL) + HOUR_S});
	idle = timer_start(CLOCK_MONOTONIC, 0, (struct itimerspec){});
	check_ready_and_wait();
	check_nap();
	check_nap();
	EQUAL(ticks_of(unread), 1);
	CHECK(ticks_of(periodic) >= 1);
	check_nap();
	check_nap();
	CHECK(ticks_of(periodic) >= 1); /* it goes on */
	MUST(timerfd_gettime(periodic, &left));
	EQUAL(left.it_interval.tv_nsec, 30000000);
	MUST(timerfd_gettime(remote, &left));
	EQUAL(left.it_interval.tv_sec, 2);
	EQUAL(left.it_interval.tv_nsec, 500);
	CHECK(left.it_value.tv_sec <= HOUR_S && left.it_value.tv_sec > HOUR_S / 2);
	MUST(timerfd_gettime(dated, &left));
	CHECK(left.it_value.tv_sec <= HOUR_S && left.it_value.tv_sec > HOUR_S / 2);
	MUST(timerfd_gettime(idle, &left));
	EQUAL(left.it_value.tv_sec + left.it_value.tv_nsec, 0);
	EQUAL(read(idle, &none, sizeof(none)), -1);
	return check_pass();
}
