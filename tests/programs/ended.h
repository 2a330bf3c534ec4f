/* A process whose first thread has ended while others go on. */
#ifndef ENDED_H
#define ENDED_H

#include "check.h"
#include <sys/syscall.h>

#define ENDED_NAPS 1000 /* twenty seconds */

/* State letter of a thread of this process. */
static inline char thread_state(pid_t tid)
{
	char path[64], text[128] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
	MUST(read(fd, text, sizeof(text) - 1));
	close(fd);
	return strrchr(text, ')')[2];
}

static inline bool thread_is_there(pid_t tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d", tid);
	return access(path, F_OK) == 0;
}

static inline void leader_wait_ended(void)
{
	for (int naps = 0; thread_state(getpid()) != 'Z'; naps++) {
		CHECK(naps < ENDED_NAPS);
		check_nap();
	}
	errno = 0;
}

#endif
