// A periodic POSIX timer keeps the overrun of its last signal and goes on in step.
#include "check.h"
#include <signal.h>

#define NUMBER (SIGRTMIN + 2)
#define PERIOD_S 2
#define MISSED 4

static long long now_ns(void)
{
	struct timespec now;

	MUST(clock_gettime(CLOCK_REALTIME, &now));
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(int argc, char **argv)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = NUMBER};
	struct itimerspec spec = {.it_interval.tv_sec = PERIOD_S};
	sigset_t mask;
	timer_t timer;
	siginfo_t info;

	check_init(argc, argv);
	sigemptyset(&mask);
	sigaddset(&mask, NUMBER);
	EQUAL(pthread_sigmask(SIG_BLOCK, &mask, NULL), 0);
	MUST(timer_create(CLOCK_REALTIME, &event, &timer));
	/* Due MISSED periods and a half ago, by a fraction that shows in the step. */
	spec.it_value.tv_sec = now_ns() / 1000000000 - MISSED * PERIOD_S - 1;
	spec.it_value.tv_nsec = 500000000;
	MUST(timer_settime(timer, TIMER_ABSTIME, &spec, NULL));
	EQUAL(sigwaitinfo(&mask, &info), NUMBER);
	EQUAL(info.si_overrun, timer_getoverrun(timer));
	CHECK(info.si_overrun == MISSED || info.si_overrun == MISSED - 1);
	check_ready_and_wait();
	EQUAL(timer_getoverrun(timer), info.si_overrun);
	MUST(timer_gettime(timer, &spec));
	EQUAL(spec.it_interval.tv_sec, PERIOD_S);
	CHECK(spec.it_value.tv_sec < PERIOD_S);
	EQUAL(sigwaitinfo(&mask, &info), NUMBER);
	return check_pass();
}
