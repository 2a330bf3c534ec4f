/*
 * Several threads, each of which blocks in a call of its own, as in blocked.h: a call ends when it is
 * woken, once, and not before. Each has to return what is expected of it.
 */
#ifndef SEVERAL_H
#define SEVERAL_H

#include "check.h"
#include <signal.h>
#include <sys/syscall.h>

#define LONG_S 3600 /* a timeout that no test reaches */

struct several {
	const char *name;
	long number;	    /* of the system call */
	long (*call)(void); /* in a thread of its own */
	void (*wake)(void); /* NULL: a signal, SIGUSR1, does */
	long expected;
};

struct several_thread {
	const struct several *what;
	pthread_t thread;
	_Atomic pid_t tid;
	_Atomic bool signalled, ended;
	long result;
};

static struct several_thread several_threads[32];
static __thread struct several_thread *volatile several_own;

static inline void several_on_signal(int number)
{
	several_own->signalled = number;
}

/* What a call returned, or the negative error number. */
static inline long result_of(long returned)
{
	return returned == -1 ? -errno : returned;
}

static inline struct timespec in_an_hour(clockid_t clock)
{
	struct timespec now;

	MUST(clock_gettime(clock, &now));
	now.tv_sec += LONG_S;
	return now;
}

static inline void *several_body(void *argument)
{
	struct several_thread *one = argument;

	several_own = one;
	one->tid = gettid();
	one->result = one->what->call();
	if (!one->what->wake && one->result == -EINTR && one->signalled)
		one->result = 0;
	one->ended = true;
	return NULL;
}

/* In its call, also where that is restarted after a stop. */
static inline bool sleeps(const struct several_thread *one)
{
	char path[64], text[16] = "";
	long number = -1;
	int fd;

	if (!one->tid)
		return false;
	snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", one->tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		return false; /* it has ended */
	MUST(close(fd));
	return sscanf(text, "%ld", &number) == 1 && (number == one->what->number || number == SYS_restart_syscall);
}

static inline void end_one(struct several_thread *one)
{
	while (!one->ended && !sleeps(one)) /* after a move it is about to make its call */
		check_nap();
	if (one->what->wake)
		one->what->wake();
	else if (!one->signalled)
		EQUAL(pthread_kill(one->thread, SIGUSR1), 0);
	thread_join(one->thread);
	if (one->result != one->what->expected)
		check_fail("%s: %ld, not %ld", one->what->name, one->result, one->what->expected);
}

static inline int run_several(const struct several *all, int count)
{
	struct sigaction action = {.sa_handler = several_on_signal};

	MUST(sigaction(SIGUSR1, &action, NULL));
	for (int i = 0; i < count; i++) {
		several_threads[i].what = &all[i];
		several_threads[i].thread = thread_start(several_body, &several_threads[i]);
	}
	for (int i = 0; i < count; i++)
		while (!sleeps(&several_threads[i]))
			sched_yield();
	check_ready_and_wait();
	for (int i = 0; i < count; i++)
		if (several_threads[i].ended && !several_threads[i].signalled)
			check_fail("%s ended with %ld before anything woke it", all[i].name, several_threads[i].result);
	for (int i = 0; i < count; i++)
		end_one(&several_threads[i]);
	return check_pass();
}

#endif
