// SPDX-License-Identifier: Apache-2.0
// Compares what the kernel has of descriptors with records of them, for core/kernel/file_facts.py. Asks nothing.
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "abi.h"
#include "facts.h"

#include "descriptors.h"

#define PAGE 4096
#define MEMFD "/memfd:"

/* A text of fdinfo that is being read. */
struct text {
	const char *at, *end;
};

/* Whether it goes on like that; then it is read. */
static int reads(struct text *text, const char *label)
{
	size_t size = strlen(label);

	if ((size_t)(text->end - text->at) < size || memcmp(text->at, label, size))
		return 0;
	text->at += size;
	return 1;
}

/* Whether a line of that label goes on with that number and ends. */
static int tells(struct text *text, const char *label, unsigned int base, unsigned long long wanted)
{
	unsigned long long value = 0;
	const char *start;

	if (!reads(text, label))
		return 0;
	while (text->at < text->end && *text->at == ' ')
		text->at++;
	for (start = text->at; text->at < text->end && *text->at != '\n'; text->at++) {
		unsigned int digit = *text->at - (*text->at < 'a' ? '0' : 'a' - 10);

		if (digit >= base)
			return 0;
		value = value * base + digit;
	}
	return text->at > start && value == wanted && reads(text, "\n");
}

static struct text text_of(const struct mg_sight *sight)
{
	const char *start = (const char *)sight + ((sizeof(*sight) + sight->link_size + 8) & ~7);

	return (struct text){start, start + sight->info_size};
}

static unsigned int flags_of(const struct mg_file_facts *facts)
{
	return (facts->flags & ~O_CLOEXEC) | (facts->cloexec >> (facts->fd & 63) & 1 ? O_CLOEXEC : 0);
}

static int tells_common(struct text *text, const struct mg_file_facts *facts)
{
	return !facts->locks && facts->position >= 0 && tells(text, "pos:\t", 10, facts->position) &&
	       tells(text, "flags:\t", 8, flags_of(facts)) && tells(text, "mnt_id:\t", 10, facts->mount) &&
	       tells(text, "ino:\t", 10, facts->inode);
}

/* Whether it is a semaphore never changes, and is told since Linux 6.5. */
static int tells_event(struct text *text, const struct mg_file_facts *facts)
{
	int tells_all = tells(text, "eventfd-count:", 16, facts->count) && tells(text, "eventfd-id:", 10, facts->event);

	return tells_all && (reads(text, "eventfd-semaphore: 0\n") || reads(text, "eventfd-semaphore: 1\n") ||
			     text->at == text->end);
}

static int is_unset(const struct mg_file_facts *facts)
{
	return !facts->expires && !facts->interval && !facts->ticks && !facts->expired;
}

static int tells_timer(struct text *text, const struct mg_file_facts *facts)
{
	return is_unset(facts) && facts->clock >= 0 && tells(text, "clockid:", 10, facts->clock) &&
	       tells(text, "ticks:", 10, 0) && tells(text, "settime flags:", 8, facts->settime_flags) &&
	       reads(text, "it_value: (0, 0)\n") && reads(text, "it_interval: (0, 0)\n");
}

static int is_quiet_pipe(const struct mg_sight *known, const struct mg_file_facts *facts)
{
	return *(const char *)(known + 1) != '/' && !known->events && !known->waiting && facts->head == facts->tail &&
	       facts->readers && facts->writers && known->capacity == (long long)facts->room * PAGE;
}

static int is_same_memfd(const struct mg_sight *known, const struct mg_file_facts *facts)
{
	const char *link = (const char *)(known + 1);

	return !known->links && !strncmp(link, MEMFD, strlen(MEMFD)) && !strchr(link + 1, '/') &&
	       known->filesystem == TMPFS_MAGIC && facts->magic == TMPFS_MAGIC && known->seals == (int)facts->seals;
}

static int is_same_inode(const struct mg_sight *known, const struct mg_file_facts *facts)
{
	return known->mode == facts->mode && known->uid == facts->uid && known->gid == facts->gid &&
	       known->links == facts->links && known->file_size == (unsigned long long)facts->size &&
	       known->inode == facts->inode && known->device == makedev(facts->device >> 20, facts->device & 0xfffff);
}

int mg_what_holds(const struct mg_sight *known, const struct mg_file_facts *facts,
		  const struct mg_operations *operations)
{
	struct text text = text_of(known);
	int is_same, kind = facts->mode & S_IFMT;

	if (known->error || known->owner_pid || facts->owner || !tells_common(&text, facts))
		return 0;
	is_same = is_same_inode(known, facts);
	if (!kind) { /* a file of anon_inode: they have one inode, and are told apart by the rest of the text */
		int is_event = facts->operations == operations->events && tells_event(&text, facts);
		int is_timer = facts->operations == operations->timers && tells_timer(&text, facts);

		return (is_event || is_timer) && is_same && text.at == text.end ? MG_HOLDS_ALL : 0;
	}
	if (kind == S_IFSOCK && known->domain == AF_UNIX && !facts->in_flight)
		reads(&text, "scm_fds: 0\n");
	if (text.at != text.end || (known->mode & S_IFMT) != (unsigned int)kind)
		return 0;
	if (is_same &&
	    ((kind == S_IFIFO && is_quiet_pipe(known, facts)) || (kind == S_IFREG && is_same_memfd(known, facts))))
		return MG_HOLDS_ALL;
	return is_same && kind == S_IFSOCK ? MG_HOLDS_TEXT | MG_HOLDS_INODE : MG_HOLDS_TEXT;
}

void mg_find_facts(const struct mg_file_facts *facts, int count, const int *fds, int fd_count, int *places)
{
	int at = 0;

	for (int i = 0; i < fd_count; i++) {
		while (at < count && facts[at].fd < fds[i])
			at++;
		places[i] = at < count && facts[at].fd == fds[i] ? at : -1;
	}
}

int mg_find_unset_timers(const struct mg_file_facts *facts, int count, const struct mg_operations *operations, int *fds)
{
	int found = 0;

	for (int i = 0; i < count; i++)
		if (!(facts[i].mode & S_IFMT) && facts[i].operations == operations->timers && is_unset(&facts[i]))
			fds[found++] = facts[i].fd;
	return found;
}
