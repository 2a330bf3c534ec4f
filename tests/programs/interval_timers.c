// The three interval timers keep their time left and their period, and the real one still rings.
#include "check.h"
#include <signal.h>
#include <sys/time.h>

static _Atomic int rung;

static void ring(int number)
{
	rung = number;
}

int main(int argc, char **argv)
{
	const int kinds[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
	const struct timespec nap = {.tv_nsec = NAP_NS};
	struct itimerval timer = {.it_interval.tv_usec = 1000};

	check_init(argc, argv);
	signal(SIGALRM, ring);
	for (int i = 0; i < 3; i++) {
		timer.it_interval.tv_sec = 10 * (i + 1);
		timer.it_value.tv_sec = 1000 * (i + 1);
		MUST(setitimer(kinds[i], &timer, NULL));
	}
	check_ready_and_wait();
	for (int i = 0; i < 3; i++) {
		MUST(getitimer(kinds[i], &timer));
		EQUAL(timer.it_interval.tv_sec, 10 * (i + 1));
		EQUAL(timer.it_interval.tv_usec, 1000);
		CHECK(timer.it_value.tv_sec <= 1000 * (i + 1) && timer.it_value.tv_sec > 1000 * (i + 1) - 60);
	}
	timer.it_value = (struct timeval){.tv_usec = 1000};
	timer.it_interval = (struct timeval){0};
	MUST(setitimer(ITIMER_REAL, &timer, NULL));
	while (!rung)
		nanosleep(&nap, NULL);
	EQUAL(rung, SIGALRM);
	return check_pass();
}
