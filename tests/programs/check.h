/*
 * init -> wait -> check -> pass. A program prepares its state, writes DIR/ready, waits for DIR/go
 * without touching that state, checks it, and writes DIR/result. Everything here is inline and
 * keeps no descriptor, timer or signal of its own.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NAP_NS (20 * 1000 * 1000L)
#define PATIENCE_NAPS (600 * 50) /* ten minutes: an orphan ends by itself */
#define JOIN_TIMEOUT_S 20

/* The reason names place, expression and errno; errno is only meaningful after a failed call. */
#define CHECK(condition)                                                              \
	do {                                                                          \
		if (!(condition))                                                     \
			check_fail("%s:%d: %s (%m)", __FILE__, __LINE__, #condition); \
	} while (0)

#define EQUAL(actual, expected)                                                                              \
	do {                                                                                                 \
		long long actual_ = (long long)(actual), expected_ = (long long)(expected);                  \
		if (actual_ != expected_)                                                                    \
			check_fail("%s:%d: %s is %lld, not %lld (%m)", __FILE__, __LINE__, #actual, actual_, \
				   expected_);                                                               \
	} while (0)

/* The value of a call that answers -1 (or MAP_FAILED) on error. */
#define MUST(call)                                                              \
	({                                                                      \
		__auto_type value_ = (call);                                    \
		if (value_ == (__typeof__(value_))-1)                           \
			check_fail("%s:%d: %s: %m", __FILE__, __LINE__, #call); \
		value_;                                                         \
	})

static const char *check_dir;
static void (*check_on_fail)(void); /* gives back what outlives the process */

/* A file appears whole or not at all. */
static inline void check_publish(const char *name, const char *text)
{
	char temporary[PATH_MAX], final[PATH_MAX];
	int fd;

	snprintf(temporary, sizeof(temporary), "%s/.%s.%d", check_dir, name, gettid());
	snprintf(final, sizeof(final), "%s/%s", check_dir, name);
	fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, text, strlen(text)) < 0 || close(fd) < 0 || rename(temporary, final) < 0)
		_exit(2);
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void check_fail(const char *format, ...)
{
	char reason[1024] = "FAIL: ";
	__builtin_va_list arguments;

	__builtin_va_start(arguments, format);
	vsnprintf(reason + 6, sizeof(reason) - 6, format, arguments);
	__builtin_va_end(arguments);
	check_publish("result", reason);
	if (check_on_fail)
		check_on_fail();
	_exit(1);
}

static inline void check_init(int argc, char **argv)
{
	if (argc < 2)
		_exit(2);
	check_dir = argv[1];
}

static inline const char *in_dir(const char *name)
{
	char *path;

	CHECK(asprintf(&path, "%s/%s", check_dir, name) > 0);
	return path;
}

static inline void check_ready(void)
{
	char text[16];

	snprintf(text, sizeof(text), "%d\n", getpid());
	check_publish("ready", text);
}

static inline bool check_go(void)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/go", check_dir);
	return access(path, F_OK) == 0;
}

/* A stop or a move must not shorten a sleep, so every program checks that on the way. */
static inline void check_nap(void)
{
	const struct timespec nap = {.tv_nsec = NAP_NS};

	EQUAL(nanosleep(&nap, NULL), 0);
}

static inline void check_wait(void)
{
	for (int naps = 0; !check_go(); naps++) {
		if (naps >= PATIENCE_NAPS)
			check_fail("no go came");
		check_nap();
	}
	errno = 0;
}

static inline void check_ready_and_wait(void)
{
	check_ready();
	check_wait();
}

static inline int check_pass(void)
{
	check_publish("result", "PASS");
	return 0;
}

static inline pthread_t thread_start(void *(*body)(void *), void *argument)
{
	pthread_t thread;

	EQUAL(pthread_create(&thread, NULL, body, argument), 0);
	return thread;
}

static inline void thread_join(pthread_t thread)
{
	struct timespec until;

	MUST(clock_gettime(CLOCK_REALTIME, &until));
	until.tv_sec += JOIN_TIMEOUT_S;
	EQUAL(pthread_timedjoin_np(thread, NULL, &until), 0);
}

#endif
