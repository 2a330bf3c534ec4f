// POSIX timers keep id, clock, time left, period and overrun; they notify the same thread with the same value.
#include "check.h"
#include <signal.h>
#include <sys/syscall.h>

#define LONG_S 3600
#define NUMBER (SIGRTMIN + 1)

static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_PROCESS_CPUTIME_ID};
static sigset_t mask;

/* The kernel's own ids: glibc hands out others for SIGEV_THREAD only. */
static int make(clockid_t clock, int notify, int number, long value)
{
	struct sigevent event = {.sigev_notify = notify, .sigev_signo = number, .sigev_value.sival_ptr = (void *)value};
	int id;

	event._sigev_un._tid = gettid();
	MUST(syscall(SYS_timer_create, clock, &event, &id));
	return id;
}

static void arm(int id, time_t seconds, long nanoseconds, time_t period_s, long period_ns)
{
	struct itimerspec spec = {{period_s, period_ns}, {seconds, nanoseconds}};

	MUST(syscall(SYS_timer_settime, id, 0, &spec, NULL));
}

static void check_left(int id, time_t least, time_t most, time_t period)
{
	struct itimerspec left;

	MUST(syscall(SYS_timer_gettime, id, &left));
	CHECK(left.it_value.tv_sec >= least && left.it_value.tv_sec <= most);
	EQUAL(left.it_interval.tv_sec, period);
}

static void take(const sigset_t *of, int id, long value)
{
	const struct timespec soon = {.tv_sec = 20};
	siginfo_t info;

	EQUAL(sigtimedwait(of, &info, &soon), NUMBER);
	EQUAL(info.si_code, SI_TIMER);
	EQUAL(info.si_timerid, id);
	EQUAL((long)info.si_value.sival_ptr, value);
}

static int expire_unnoticed(int id, long value)
{
	const struct timespec nap = {.tv_nsec = 50 * 1000 * 1000};
	struct itimerspec slow;

	arm(id, 0, 1000 * 1000, 0, 1000 * 1000);
	nanosleep(&nap, NULL);
	take(&mask, id, value);
	MUST(syscall(SYS_timer_gettime, id, &slow));
	return MUST(syscall(SYS_timer_getoverrun, id));
}

int main(int argc, char **argv)
{
	int ids[4], none, queued, thread, overrun;

	check_init(argc, argv);
	sigemptyset(&mask);
	sigaddset(&mask, NUMBER);
	EQUAL(pthread_sigmask(SIG_BLOCK, &mask, NULL), 0);
	for (int i = 0; i < 9; i++) /* ids that are not in use any more */
		MUST(syscall(SYS_timer_delete, make(CLOCK_MONOTONIC, SIGEV_SIGNAL, NUMBER, 0)));
	for (int i = 0; i < 4; i++)
		arm(ids[i] = make(clocks[i], SIGEV_SIGNAL, NUMBER, i), LONG_S, 0, i * 100, 0);
	MUST(syscall(SYS_timer_delete, make(CLOCK_MONOTONIC, SIGEV_SIGNAL, NUMBER, 0)));
	arm(none = make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0), LONG_S, 0, 7, 0);
	thread = make(CLOCK_MONOTONIC, SIGEV_THREAD_ID, NUMBER, 77);
	overrun = expire_unnoticed(thread, 77);
	CHECK(overrun > 10);
	arm(thread, 0, 0, 0, 0);
	arm(queued = make(CLOCK_MONOTONIC, SIGEV_SIGNAL, NUMBER, 5), 0, 1, LONG_S, 0);
	check_ready_and_wait();
	for (int i = 0; i < 4; i++)
		check_left(ids[i], LONG_S - 60, LONG_S, i * 100);
	check_left(none, LONG_S - 60, LONG_S, 7);
	take(&mask, queued, 5);
	check_left(queued, LONG_S - 60, LONG_S, LONG_S);
	arm(thread, 0, 1, 0, 0);
	take(&mask, thread, 77);
	EQUAL(make(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0), queued + 1);
	return check_pass();
}
