// SPDX-License-Identifier: Apache-2.0
// Reads a POSIX message queue by taking everything out and putting it back, whatever becomes of us: no policy here.
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"
#include "kernel.h"
#include "mqueue.h"

#define STACK_SIZE 16384
#define PUT_TRIES 2000 /* of a millisecond each */
#define NAP_NS 1000000L
#define MASK_SIZE 8

struct copy {
	int fd, capacity, count, put, error;
	long message_size, room;
	char *texts;
	unsigned int *sizes, *priorities;
};

static void take_all(struct copy *copy)
{
	long place = 0;

	while (copy->count < copy->capacity && copy->room - place >= copy->message_size) {
		long size = mg_syscall(SYS_mq_timedreceive, copy->fd, (unsigned long)(copy->texts + place),
				       copy->message_size, (unsigned long)&copy->priorities[copy->count], 0, 0);

		if (size < 0) {
			copy->error = size == -EAGAIN ? 0 : size;
			return;
		}
		copy->sizes[copy->count++] = size;
		place += size;
	}
}

static long put(const struct copy *copy, const char *text, int index)
{
	const struct timespec nap = {.tv_nsec = NAP_NS};
	long error;

	for (int tries = 0; tries < PUT_TRIES; tries++) {
		error = mg_syscall(SYS_mq_timedsend, copy->fd, (unsigned long)text, copy->sizes[index],
				   copy->priorities[index], 0, 0);
		if (!error)
			break;
		mg_syscall(SYS_nanosleep, (unsigned long)&nap, 0, 0, 0, 0, 0);
	}
	return error;
}

/* What is taken out comes in the order in which it has to be sent. */
static int copy_and_end(void *argument)
{
	struct copy *copy = argument;
	const char *text = copy->texts;

	mg_syscall(SYS_setsid, 0, 0, 0, 0, 0, 0); /* who kills our process group does not mean this one */
	take_all(copy);
	for (int index = 0; index < copy->count; text += copy->sizes[index++]) {
		if (!put(copy, text, index))
			copy->put++;
	}
	return 0;
}

int mg_copy_queue(int fd, long message_size, char *texts, long room, unsigned int *sizes, unsigned int *priorities,
		  int capacity, int *lost)
{
	struct copy copy = {.fd = fd,
			    .capacity = capacity,
			    .message_size = message_size,
			    .room = room,
			    .texts = texts,
			    .sizes = sizes,
			    .priorities = priorities};
	unsigned long long all = ~0ULL, before;
	_Alignas(16) char stack[STACK_SIZE];
	int child, status, error;

	/* All memory is there before the first message is taken. */
	memset(texts, 0, room);
	memset(sizes, 0, capacity * sizeof(*sizes));
	memset(priorities, 0, capacity * sizeof(*priorities));
	memset(stack, 0, sizeof(stack));
	mg_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (unsigned long)&all, (unsigned long)&before, MASK_SIZE, 0, 0);
	child = clone(copy_and_end, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_FILES, &copy);
	error = child < 0 ? -errno : 0;
	if (!error)
		mg_wait(child, 0, &status);
	mg_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (unsigned long)&before, 0, MASK_SIZE, 0, 0);
	*lost = copy.count - copy.put;
	return error ? error : copy.error ? copy.error : copy.count;
}
