// SPDX-License-Identifier: Apache-2.0
// Reads what a phase of a dump needs in bulk, for core/proc and core/kernel: no policy here.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "abi.h"
#include "kernel.h"
#include "parts.h"

#include "collect.h"

#define NT_386_IOPERM 0x201
#define IO_BITMAP_SIZE 8192
#define IOPRIO_WHO_PROCESS 1
#define FEW 64	       /* files for which another thread does not pay: it costs as much as about ten */
#define NICE_ORIGIN 20 /* what the kernel counts nice values from: getpriority(2) */

/* Source: sched_setattr(2) */
struct scheduling {
	unsigned int size, policy;
	unsigned long long flags;
	int nice;
	unsigned int priority;
	unsigned long long runtime, deadline, period;
};

static int has_io_ports(int tid)
{
	unsigned char bitmap[IO_BITMAP_SIZE];
	struct iovec part = {bitmap, sizeof(bitmap)};

	return mg_ptrace(PTRACE_GETREGSET, tid, NT_386_IOPERM, (unsigned long)&part) == 0;
}

static int read_facts(struct mg_facts *facts)
{
	struct scheduling attributes = {0};
	int tid = facts->tid;
	long result;

	result = mg_syscall(SYS_sched_getattr, tid, (unsigned long)&attributes, sizeof(attributes), 0, 0, 0);
	if (result < 0)
		return result;
	facts->sched_flags = attributes.flags;
	facts->priority = attributes.priority;
	facts->runtime_ns = attributes.runtime;
	facts->deadline_ns = attributes.deadline;
	facts->period_ns = attributes.period;
	facts->policy = mg_syscall(SYS_sched_getscheduler, tid, 0, 0, 0, 0, 0);
	if (facts->policy < 0)
		return facts->policy;
	result = mg_syscall(SYS_getpriority, PRIO_PROCESS, tid, 0, 0, 0, 0);
	if (result < 0)
		return result;
	facts->nice = NICE_ORIGIN - result;
	facts->io_priority = mg_syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, tid, 0, 0, 0, 0);
	if (facts->io_priority < 0)
		return facts->io_priority;
	facts->affinity_size = mg_syscall(SYS_sched_getaffinity, tid, sizeof(facts->affinity),
					  (unsigned long)facts->affinity, 0, 0, 0);
	if (facts->affinity_size < 0)
		return facts->affinity_size;
	facts->has_io_ports = has_io_ports(tid);
	return 0;
}

int mg_read_facts(const int *tids, int count, struct mg_facts *facts)
{
	int failed = 0;

	for (int i = 0; i < count; i++) {
		facts[i].tid = tids[i];
		facts[i].error = -read_facts(&facts[i]);
		failed += facts[i].error != 0;
	}
	return failed;
}

_Static_assert(RLIM_NLIMITS == MG_LIMITS, "all of them");

int mg_read_limits(int pid, unsigned long long *limits)
{
	for (int i = 0; i < MG_LIMITS; i++) {
		long result = mg_syscall(SYS_prlimit64, pid, i, 0, (unsigned long)&limits[2 * i], 0, 0);

		if (result < 0)
			return result;
	}
	return 0;
}

static long long read_file(const char *name, unsigned char *buffer, long long room)
{
	long long size = 0;
	long result = 0;
	int fd = open(name, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	while (size < room) {
		result = read(fd, buffer + size, room - size);
		if (result < 0)
			size = -errno;
		if (result <= 0)
			break;
		size += result;
	}
	close(fd);
	return result > 0 ? -EFBIG : size;
}

static long long read_link(const char *name, unsigned char *buffer, long long room)
{
	long size = readlink(name, (char *)buffer, room);

	return size < 0 ? -errno : size;
}

/* The names that are in a directory, each with its NUL. */
static long long read_names(const char *name, unsigned char *buffer, long long room)
{
	long long size = 0;
	struct dirent *entry;
	DIR *directory = opendir(name);

	if (!directory)
		return -errno;
	while (errno = 0, (entry = readdir(directory))) {
		long long length = strlen(entry->d_name) + 1;

		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (room - size < length) {
			errno = EFBIG;
			break;
		}
		memcpy(buffer + size, entry->d_name, length);
		size += length;
	}
	if (errno)
		size = -errno;
	closedir(directory);
	return size;
}

struct reading {
	const char *names;
	int count, kind;
	unsigned char *buffer;
	long long start, room; /* the part of the buffer that is this one's */
	struct mg_slice *spans;
};

static void *read_part(void *argument)
{
	static long long (*const ways[])(const char *, unsigned char *, long long) = {read_file, read_link, read_names};
	const struct reading *part = argument;
	const char *name = part->names;
	long long used = part->start, end = part->start + part->room;

	for (int i = 0; i < part->count; i++) {
		struct mg_slice *span = &part->spans[i];

		span->start = used;
		span->size = -MG_NO_ROOM;
		if (end - used >= MG_FILE_ROOM)
			span->size = ways[part->kind](name, part->buffer + used, end - used);
		if (span->size > 0)
			used += span->size;
		name += strlen(name) + 1;
	}
	return NULL;
}

void mg_read_files(const char *names, int count, int kind, unsigned char *buffer, long long room,
		   struct mg_slice *spans)
{
	struct reading parts[MG_MOST_PARTS];
	int most = room / MG_FILE_ROOM, wanted = mg_count_parts(count, FEW), done = 0;
	int many = wanted < most ? wanted : most < 1 ? 1 : most;

	for (int i = 0; i < many; i++) {
		int end = mg_part_end(count, many, i);

		parts[i] =
			(struct reading){names, end - done, kind, buffer, room / many * i, room / many, spans + done};
		for (; done < end; done++)
			names += strlen(names) + 1;
	}
	mg_run_parts(read_part, parts, sizeof(parts[0]), many);
}

enum { KCMP_EQUAL, KCMP_LESS, KCMP_GREATER };

struct comparing {
	const int *pids, *fds, *groups;
	int kind;
	long error;
	long long *comparisons;
};

/* `fds` is NULL for objects of a process as such. */
static long ask(const struct comparing *one, int a, int b)
{
	++*one->comparisons;
	return mg_syscall(SYS_kcmp, one->pids[a], one->pids[b], one->kind, one->fds ? one->fds[a] : 0,
			  one->fds ? one->fds[b] : 0, 0);
}

enum { DIFFERENT = -1, SAME = 0, DISORDER = 1 };

/* Of two indexes into pids, by group and object. */
static int compare_indexes(struct comparing *comparing, int a, int b)
{
	long order = KCMP_EQUAL;

	if (a == b || comparing->error)
		return SAME;
	if (comparing->groups && comparing->groups[a] != comparing->groups[b])
		return comparing->groups[a] < comparing->groups[b] ? DIFFERENT : DISORDER;
	order = ask(comparing, a, b);
	if (order > KCMP_GREATER)
		order = -EOPNOTSUPP;
	if (order < 0) {
		comparing->error = order;
		return SAME;
	}
	return order == KCMP_LESS ? DIFFERENT : order == KCMP_GREATER ? DISORDER : SAME;
}

/* For sorting: of the same object by index. */
static int compare(const void *one, const void *other, void *context)
{
	int a = *(const int *)one, b = *(const int *)other, order = compare_indexes(context, a, b);

	return order == SAME ? a - b : order;
}

/* All of sorted[first … end - 1] are the same: same[] is the lowest. */
static void note_same(const int *sorted, int first, int end, int *same)
{
	int lowest = sorted[first];

	for (int i = first + 1; i < end; i++)
		if (sorted[i] < lowest)
			lowest = sorted[i];
	for (int i = first; i < end; i++)
		same[sorted[i]] = lowest;
}

/* same[] by the order of sorted[]; 0 when that is not one. `sure`: it was, and what is not in it has changed since, so
 * that it is not the same as what lies before it. */
static int find_in_order(struct comparing *comparing, const int *sorted, int count, int *same, int sure)
{
	int first = 0;

	for (int i = 1; i < count; i++) {
		int order = compare_indexes(comparing, sorted[i - 1], sorted[i]);

		if ((order == DISORDER && !sure) || comparing->error)
			return 0;
		if (order == SAME)
			continue;
		note_same(sorted, first, i, same);
		first = i;
	}
	if (count)
		note_same(sorted, first, count, same);
	return 1;
}

int mg_find_shared(const int *pids, const int *fds, const int *groups, int count, int kind, int *same, int *sorted,
		   long long *comparisons)
{
	struct comparing comparing = {pids, fds, groups, kind, 0, comparisons};

	if (find_in_order(&comparing, sorted, count, same, 0) || comparing.error)
		return comparing.error;
	qsort_r(sorted, count, sizeof(*sorted), compare, &comparing);
	if (!comparing.error)
		find_in_order(&comparing, sorted, count, same, 1);
	return comparing.error;
}
