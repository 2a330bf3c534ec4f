// Waits on clocks and futexes, and polls, that are made by syscall(3) are the same ones after stops and a move.
#include "several.h"
#include <linux/futex.h>
#include <poll.h>

#define FUTEX_LOCK_PI2 13

struct waiter {
	uint64_t value, address;
	uint32_t flags, reserved;
};

static const struct timespec hour = {.tv_sec = LONG_S};
static uint32_t shared_word, private_word, bitset_word, either_words[2], lock, requeued[2];
static _Atomic bool owned;
static int ends[2];

static long sleep_for(clockid_t clock)
{
	struct timespec left = {};
	long result = result_of(syscall(SYS_clock_nanosleep, clock, 0, &hour, &left));

	CHECK(left.tv_sec < LONG_S && left.tv_sec > LONG_S / 2);
	return result;
}

static long sleep_until(clockid_t clock)
{
	struct timespec until = in_an_hour(clock);

	return result_of(syscall(SYS_clock_nanosleep, clock, TIMER_ABSTIME, &until, NULL));
}

static long monotonic(void)
{
	return sleep_for(CLOCK_MONOTONIC);
}

static long boottime(void)
{
	return sleep_for(CLOCK_BOOTTIME);
}

static long processor_time(void)
{
	return sleep_for(CLOCK_PROCESS_CPUTIME_ID);
}

static long realtime_absolute(void)
{
	return sleep_until(CLOCK_REALTIME);
}

static long tai_absolute(void)
{
	return sleep_until(CLOCK_TAI);
}

static long nanosleep_without_rest(void)
{
	return result_of(syscall(SYS_nanosleep, &hour, NULL));
}

static long poll_nothing(void)
{
	return result_of(syscall(SYS_poll, NULL, 0, LONG_S * 1000));
}

static long poll_none_of(void)
{
	struct pollfd readable = {.fd = ends[0], .events = POLLIN};

	return result_of(syscall(SYS_poll, &readable, 0, LONG_S * 1000));
}

static long poll_for_ever(void)
{
	struct pollfd readable = {.fd = ends[0], .events = POLLIN};

	return result_of(syscall(SYS_poll, &readable, 1, -1));
}

static void write_a_byte(void)
{
	EQUAL(write(ends[1], "+", 1), 1);
}

static void wake(uint32_t *word, int how)
{
	*word = 1;
	EQUAL(syscall(SYS_futex, word, FUTEX_WAKE | how, 1, NULL, NULL, 0), 1);
}

static long wait_shared(void)
{
	return result_of(syscall(SYS_futex, &shared_word, FUTEX_WAIT, 0, &hour, NULL, 0));
}

static void wake_shared(void)
{
	wake(&shared_word, 0);
}

static long wait_private(void)
{
	return result_of(syscall(SYS_futex, &private_word, FUTEX_WAIT_PRIVATE, 0, &hour, NULL, 0));
}

static void wake_private(void)
{
	wake(&private_word, FUTEX_PRIVATE_FLAG);
}

static long wait_until(void)
{
	struct timespec until = in_an_hour(CLOCK_REALTIME);

	return result_of(syscall(SYS_futex, &bitset_word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 0, &until, NULL, 1));
}

static void wake_bitset(void)
{
	wake(&bitset_word, 0);
}

static long wait_for_either(void)
{
	struct waiter waiters[2] = {{0, (uintptr_t)&either_words[0], 2, 0}, {0, (uintptr_t)&either_words[1], 2, 0}};
	struct timespec until = in_an_hour(CLOCK_MONOTONIC);

	return result_of(syscall(SYS_futex_waitv, waiters, 2, 0, &until, CLOCK_MONOTONIC));
}

static void wake_either(void)
{
	wake(&either_words[1], 0);
}

static long wait_to_be_requeued(void)
{
	struct timespec until = in_an_hour(CLOCK_MONOTONIC);

	return result_of(syscall(SYS_futex, &requeued[0], FUTEX_WAIT_REQUEUE_PI, 0, &until, &requeued[1], 0));
}

static void requeue(void)
{
	EQUAL(syscall(SYS_futex, &requeued[0], FUTEX_CMP_REQUEUE_PI, 1, 1, &requeued[1], 0), 1);
}

/* The next one waits for the lock that this one holds until it is signalled. */
static long own_lock(void)
{
	EQUAL(syscall(SYS_futex, &lock, FUTEX_LOCK_PI, 0, NULL, NULL, 0), 0);
	owned = true;
	EQUAL(pause(), -1);
	return result_of(syscall(SYS_futex, &lock, FUTEX_UNLOCK_PI, 0, NULL, NULL, 0));
}

static long wait_for_lock(void)
{
	struct timespec until = in_an_hour(CLOCK_MONOTONIC);

	while (!owned)
		sched_yield();
	EQUAL(syscall(SYS_futex, &lock, FUTEX_LOCK_PI2, 0, &until, NULL, 0), 0);
	return (lock & FUTEX_TID_MASK) == (uint32_t)gettid();
}

/* The call before woke it too. */
static void nothing_more(void)
{
}

static const struct several all[] = {
	{"clock_nanosleep, MONOTONIC", SYS_clock_nanosleep, monotonic, NULL, 0},
	{"clock_nanosleep, BOOTTIME", SYS_clock_nanosleep, boottime, NULL, 0},
	{"clock_nanosleep, PROCESS_CPUTIME", SYS_clock_nanosleep, processor_time, NULL, 0},
	{"clock_nanosleep, REALTIME until", SYS_clock_nanosleep, realtime_absolute, NULL, 0},
	{"clock_nanosleep, TAI until", SYS_clock_nanosleep, tai_absolute, NULL, 0},
	{"nanosleep without rest", SYS_nanosleep, nanosleep_without_rest, NULL, 0},
	{"poll of nothing", SYS_poll, poll_nothing, NULL, 0},
	{"poll of none of an array", SYS_poll, poll_none_of, NULL, 0},
	{"poll for ever", SYS_poll, poll_for_ever, write_a_byte, 1},
	{"FUTEX_WAIT", SYS_futex, wait_shared, wake_shared, 0},
	{"FUTEX_WAIT_PRIVATE", SYS_futex, wait_private, wake_private, 0},
	{"FUTEX_WAIT_BITSET, REALTIME", SYS_futex, wait_until, wake_bitset, 0},
	{"futex_waitv", SYS_futex_waitv, wait_for_either, wake_either, 1},
	{"FUTEX_WAIT_REQUEUE_PI", SYS_futex, wait_to_be_requeued, requeue, 0},
	{"owner of a lock", SYS_pause, own_lock, NULL, 0},
	{"FUTEX_LOCK_PI2", SYS_futex, wait_for_lock, nothing_more, 1},
};

int main(int argc, char **argv)
{
	check_init(argc, argv);
	MUST(pipe(ends));
	return run_several(all, sizeof(all) / sizeof(all[0]));
}
