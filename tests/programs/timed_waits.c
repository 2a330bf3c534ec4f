// Waits with a short timeout, repeated all the time, end by their timeout: never early and never by EINTR.
// tags: live
#include "check.h"
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>

#define WAIT_MS 30
#define KINDS 6

static const struct timespec duration = {.tv_nsec = WAIT_MS * 1000000L};
static _Atomic bool stop;
static int set;

/* 0 when the wait of this kind ended by its timeout. */
static long wait_once(long kind)
{
	struct timeval remaining = {.tv_usec = WAIT_MS * 1000};
	struct epoll_event event;
	uint32_t word = 0;
	sigset_t none;

	switch (kind) {
	case 0:
		return nanosleep(&duration, NULL);
	case 1:
		return poll(NULL, 0, WAIT_MS);
	case 2:
		return select(0, NULL, NULL, NULL, &remaining);
	case 3:
		return epoll_wait(set, &event, 1, WAIT_MS);
	case 4:
		syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &duration, NULL, 0);
		return errno - ETIMEDOUT;
	default:
		sigemptyset(&none);
		syscall(SYS_rt_sigtimedwait, &none, NULL, &duration, 8);
		return errno - EAGAIN;
	}
}

static void *wait_until_stop(void *argument)
{
	struct timespec before, after;

	while (!stop) {
		MUST(clock_gettime(CLOCK_MONOTONIC, &before));
		if (wait_once((long)argument))
			check_fail("wait %ld ended before its timeout: %m", (long)argument);
		MUST(clock_gettime(CLOCK_MONOTONIC, &after));
		CHECK((after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000 >=
		      WAIT_MS - 1);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[KINDS];

	check_init(argc, argv);
	set = MUST(epoll_create1(0));
	for (long kind = 0; kind < KINDS; kind++)
		threads[kind] = thread_start(wait_until_stop, (void *)kind);
	check_ready_and_wait();
	stop = true;
	for (int kind = 0; kind < KINDS; kind++)
		thread_join(threads[kind]);
	return check_pass();
}
