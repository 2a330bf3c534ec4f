/*
 * One thread blocks in a system call. Neither a stop nor a move may end that call: only wake_up()
 * may, and the call then returns what it would have returned. A program supplies the three
 * functions; wake_up() is repeated until the thread ends, so it must bear that.
 */
#ifndef BLOCKED_H
#define BLOCKED_H

#include "check.h"
#include <signal.h>
#include <sys/syscall.h>

#define LONG_S 3600 /* a timeout that no test reaches */

static void prepare(void);
static long blocked_call(void);
static void wake_up(void);

static pthread_t blocked_thread;
static _Atomic pid_t blocked_tid;
static _Atomic bool blocked_ended, waking_up;
static long blocked_result;

static inline void *blocked_body(void *unused)
{
	blocked_tid = gettid();
	blocked_result = blocked_call();
	if (blocked_result == -1)
		blocked_result = -errno;
	if (!waking_up)
		check_fail("the call ended with %ld before anything woke it", blocked_result);
	blocked_ended = true;
	return unused;
}

/* The number of the system call that `tid` sleeps in, or -1 while it runs. */
static inline long sleeping_in(pid_t tid)
{
	char path[64], text[16] = "";
	long number = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", tid);
	fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	MUST(read(fd, text, sizeof(text) - 1));
	MUST(close(fd));
	return sscanf(text, "%ld", &number) == 1 ? number : -1;
}

static inline int run_blocked(int argc, char **argv, long number, long expected)
{
	check_init(argc, argv);
	prepare();
	blocked_thread = thread_start(blocked_body, NULL);
	while (!blocked_tid || sleeping_in(blocked_tid) != number)
		sched_yield();
	check_ready_and_wait();
	waking_up = true;
	for (int naps = 0; !blocked_ended && naps < JOIN_TIMEOUT_S * 50; naps++) {
		wake_up();
		check_nap();
	}
	thread_join(blocked_thread);
	errno = 0;
	EQUAL(blocked_result, expected);
	return check_pass();
}

#endif
