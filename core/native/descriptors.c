// SPDX-License-Identifier: Apache-2.0
// Looks at many descriptors of a process, for core/kernel/descriptors.py: no policy here. Changes nothing of them.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "abi.h"
#include "facts.h"

#include "descriptors.h"
#include "parts.h"
#include "sockets.h"

#define POLLED (POLLIN | POLLPRI | POLLRDHUP) /* POLLERR and POLLHUP come by themselves */
#define NAME_ROOM 48
#define SO_GET_FILTER_ 26
#define MEMFD "/memfd:"

struct writer {
	unsigned char *start, *at, *end;
};

/* Room for `size` bytes at a multiple of `step`; NULL when there is none. What is skipped is zero. */
static unsigned char *take(struct writer *writer, size_t size, size_t step)
{
	size_t skipped = -(size_t)(writer->at - writer->start) & (step - 1);
	unsigned char *place = writer->at + skipped;

	if (writer->end < writer->at + skipped + size)
		return NULL;
	memset(writer->at, 0, skipped);
	writer->at = place + size;
	return place;
}

static int read_text(int directory, const char *name, int open_text, struct writer *writer)
{
	unsigned char *place = take(writer, 0, 8);
	int fd = open_text < 0 ? openat(directory, name, O_RDONLY | O_CLOEXEC) : open_text;
	long size;

	if (fd < 0)
		return -errno;
	size = pread(fd, place, writer->end - place, 0); /* all of it: seq_file(9) shows it as one record */
	if (open_text < 0)
		close(fd);
	if (size < 0)
		return -errno;
	if (place + size >= writer->end)
		return -EFBIG;
	writer->at = place + size;
	return size;
}

static int is_of_inode(const struct mg_sight *known, const struct mg_sight *sight)
{
	return !known->error && known->mode == sight->mode && known->device == sight->device &&
	       known->inode == sight->inode;
}

/* Whether the link of `known`, which is of the same inode, has to be the same: by its number, or by the name that it
 * was made with; those of anon_inode are told apart by their fdinfo, which is compared. A path may lead there still and
 * be another: by a symbolic link, or by a second name of the file. */
static int link_holds(const struct mg_sight *known, const char *link)
{
	if (S_ISFIFO(known->mode) || S_ISSOCK(known->mode) || !(known->mode & S_IFMT))
		return *link != '/';
	return !known->links && !strncmp(link, MEMFD, strlen(MEMFD)) && !strchr(link + 1, '/');
}

/* Where the link leads, and whether there is a file by that path below `root`. `fd`: our duplicate, in whose folder
 * `ours` it is looked for: the task's own number may be another file by now. */
static int read_link(int ours, int fd, int root, const struct mg_sight *known, struct mg_sight *sight,
		     struct writer *writer)
{
	unsigned char *place = take(writer, 0, 8);
	const char *link = (const char *)(known + 1); /* ends with a NUL: texts follow it at a multiple of 8 */
	char name[16];
	long size;
	struct stat found;

	snprintf(name, sizeof(name), "%d", fd);
	if (known && link_holds(known, link)) {
		sight->path_device = known->path_device;
		sight->path_inode = known->path_inode;
		memcpy(place, link, known->link_size);
		writer->at = place + known->link_size;
		return known->link_size;
	}
	size = readlinkat(ours, name, (char *)place, writer->end - place);
	if (size < 0)
		return -errno;
	if (place + size >= writer->end)
		return -EFBIG;
	place[size] = 0;
	writer->at = place + size;
	if (*place == '/' &&
	    !fstatat(root, size > 1 ? (char *)place + 1 : ".", &found, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT)) {
		sight->path_device = found.st_dev;
		sight->path_inode = found.st_ino;
	}
	return size;
}

/* One descriptor, and what is known of it. */
struct one {
	int number, text, holds;
	const struct mg_sight *known; /* an earlier record, or NULL */
	const struct mg_sight *like;  /* of one that is alike, or NULL */
};

struct place {
	int links, texts, root, pidfd;
	const struct mg_option *options;
	int option_count;
};

static int answer(struct writer *writer, int result, int size, const void *value)
{
	unsigned char *place = take(writer, sizeof(result), 4);

	if (!place)
		return -EFBIG;
	if (result >= 0)
		result = size;
	memcpy(place, &result, sizeof(result));
	if (result > 0) {
		place = take(writer, size, 4);
		if (!place)
			return -EFBIG;
		memcpy(place, value, size);
	}
	return 0;
}

static int read_names(int fd, struct writer *writer)
{
	struct sockaddr_storage name;
	socklen_t size = sizeof(name);
	int result = getsockname(fd, (struct sockaddr *)&name, &size) ? -errno : 0;

	if (answer(writer, result, size, &name))
		return -EFBIG;
	size = sizeof(name);
	result = getpeername(fd, (struct sockaddr *)&name, &size) ? -errno : 0;
	return answer(writer, result, size, &name);
}

static int read_option(int fd, int option)
{
	int value = 0;
	socklen_t size = sizeof(value);

	return getsockopt(fd, SOL_SOCKET, option, &value, &size) ? -errno : value;
}

static int read_option_memory(int fd)
{
	int words[SK_MEMINFO_VARS];
	socklen_t size = sizeof(words);

	return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, words, &size) ? -errno : words[SK_MEMINFO_OPTMEM];
}

/* How long an answer is with its length and what is skipped behind it. */
static size_t answer_span(const unsigned char *answer)
{
	int size;

	memcpy(&size, answer, sizeof(size));
	return sizeof(size) + (size > 0 ? (size + 3) & ~3 : 0);
}

/* The answers about options in a record. */
static const unsigned char *option_answers(const struct mg_sight *sight)
{
	const unsigned char *at = (const unsigned char *)sight;
	size_t infos = (sizeof(*sight) + sight->link_size + 8) & ~7;

	at += infos + ((sight->info_size + 7) & ~7);
	at += answer_span(at);
	return at + answer_span(at);
}

/* `like`: an earlier record of one that is alike, or NULL. */
static int read_options(int fd, const struct place *where, const struct mg_sight *like, const struct mg_sight *sight,
			struct writer *writer)
{
	const unsigned char *told = like ? option_answers(like) : NULL;

	for (int i = 0; i < where->option_count; i++) {
		const struct mg_option *one = &where->options[i];
		unsigned char value[NAME_ROOM] = {0}, *copy;
		socklen_t size = one->size;
		size_t span = 0;

		if (one->domain != sight->domain || (one->protocol && one->protocol != sight->protocol))
			continue;
		if (told)
			span = answer_span(told);
		if (told && one->shows) {
			copy = take(writer, span, 4);
			if (!copy)
				return -EFBIG;
			memcpy(copy, told, span);
		} else if (answer(writer, getsockopt(fd, one->level, one->option, value, &size) ? -errno : 0, size,
				  value)) {
			return -EFBIG;
		}
		if (told)
			told += span;
	}
	return 0;
}

static int read_socket(int fd, const struct place *where, const struct mg_sight *known, const struct mg_sight *like,
		       struct mg_sight *sight, struct writer *writer)
{
	unsigned char *place = take(writer, 0, 8);
	socklen_t size = 0;
	char byte;

	sight->domain = known ? known->domain : read_option(fd, SO_DOMAIN);
	sight->type = known ? known->type : read_option(fd, SO_TYPE);
	sight->protocol = known ? known->protocol : read_option(fd, SO_PROTOCOL);
	if (like) {
		sight->option_memory = like->option_memory;
		sight->filter = like->filter;
	} else {
		if (sight->domain != AF_UNIX && sight->protocol == IPPROTO_UDP)
			sight->option_memory = read_option_memory(fd);
		sight->filter = getsockopt(fd, SOL_SOCKET, SO_GET_FILTER_, NULL, &size) ? -errno : (int)size;
	}
	if (sight->domain == AF_UNIX && sight->type == SOCK_STREAM)
		sight->urgent = recv(fd, &byte, 1, MSG_OOB | MSG_PEEK | MSG_DONTWAIT) > 0;
	if (read_names(fd, writer))
		return -EFBIG;
	if (read_options(fd, where, like, sight, writer))
		return -EFBIG;
	return writer->at - place;
}

static void read_owner(int fd, struct mg_sight *sight)
{
	struct f_owner_ex owner = {0};

	if (!fcntl(fd, F_GETOWN_EX, &owner)) { /* EBADF: O_PATH */
		sight->owner_type = owner.type;
		sight->owner_pid = owner.pid;
	}
}

static int read_stat(int fd, struct mg_sight *sight)
{
	struct stat found;

	if (fstat(fd, &found))
		return -errno;
	sight->mode = found.st_mode;
	sight->uid = found.st_uid;
	sight->gid = found.st_gid;
	sight->device = found.st_dev;
	sight->inode = found.st_ino;
	sight->links = found.st_nlink;
	sight->device_kind = found.st_rdev;
	sight->file_size = found.st_size;
	return 0;
}

static void take_stat(const struct mg_sight *known, struct mg_sight *sight)
{
	sight->mode = known->mode;
	sight->uid = known->uid;
	sight->gid = known->gid;
	sight->device = known->device;
	sight->inode = known->inode;
	sight->links = known->links;
	sight->device_kind = known->device_kind;
	sight->file_size = known->file_size;
}

/* `known`: NULL unless it is of this very inode; `holds`: what of it is known to be right. */
static int read_inode(int fd, const struct mg_sight **known, int holds, struct mg_sight *sight)
{
	struct statfs where;

	if (holds & MG_HOLDS_INODE)
		take_stat(*known, sight);
	else if (read_stat(fd, sight))
		return -errno;
	if (*known && !is_of_inode(*known, sight))
		*known = NULL;
	if (*known) {
		sight->filesystem = (*known)->filesystem;
		sight->block_size = (*known)->block_size;
	} else if (S_ISREG(sight->mode)) {
		if (fstatfs(fd, &where))
			return -errno;
		sight->filesystem = where.f_type;
		sight->block_size = where.f_bsize;
	}
	if (S_ISREG(sight->mode) && !sight->links) {
		int seals = fcntl(fd, F_GET_SEALS);

		sight->seals = seals < 0 ? -errno : seals;
	}
	if (S_ISFIFO(sight->mode) || S_ISSOCK(sight->mode)) {
		struct pollfd polled = {.fd = fd, .events = POLLED};

		if (poll(&polled, 1, 0) < 0)
			return -errno;
		sight->events = polled.revents;
	}
	if (S_ISFIFO(sight->mode)) {
		if (ioctl(fd, FIONREAD, &sight->waiting)) /* EBADF: O_PATH */
			sight->waiting = -1;
		sight->capacity = fcntl(fd, F_GETPIPE_SZ);
	}
	return 0;
}

/* The text of `known`, which is right. */
static int take_text(const struct mg_sight *known, struct writer *writer)
{
	const unsigned char *text = (const unsigned char *)known + ((sizeof(*known) + known->link_size + 8) & ~7);
	unsigned char *place = take(writer, known->info_size, 8);

	if (!place)
		return -EFBIG;
	memcpy(place, text, known->info_size);
	return known->info_size;
}

static int look(const struct place *where, const struct one *one, int fd, struct mg_sight *sight, struct writer *writer)
{
	const struct mg_sight *known = one->known;
	char name[16];
	int size = read_inode(fd, &known, one->holds, sight);

	if (size < 0)
		return size;
	if (!(one->holds & MG_HOLDS_TEXT))
		read_owner(fd, sight);
	snprintf(name, sizeof(name), "%d", one->number);
	sight->link_size = size = read_link(where->links, fd, where->root, known, sight, writer);
	if (size < 0)
		return size;
	if (!take(writer, 1, 1)) /* the link's NUL */
		return -EFBIG;
	writer->at[-1] = 0;
	sight->info_size = size = one->holds & MG_HOLDS_TEXT ? take_text(one->known, writer)
							     : read_text(where->texts, name, one->text, writer);
	if (size < 0)
		return size;
	if (S_ISSOCK(sight->mode)) {
		sight->answers_size = size = read_socket(fd, where, known, one->like, sight, writer);
		if (size < 0)
			return size;
	}
	return take(writer, 0, 8) ? 0 : -EFBIG;
}

/* With `known` some may be taken from there, so what differs from it otherwise has to be looked at without. */
static int look_at_one(const struct place *where, struct one one, unsigned char *start)
{
	struct mg_sight *sight = (struct mg_sight *)start;
	struct writer writer = {start, start + sizeof(*sight), start + MG_SIGHT_ROOM};
	int fd, error;

	if (one.holds & MG_HOLDS_ALL)
		return 0;
	fd = syscall(SYS_pidfd_getfd, where->pidfd, one.number, 0);
	memset(sight, 0, sizeof(*sight));
	error = fd < 0 ? -errno : look(where, &one, fd, sight, &writer);
	if (fd >= 0)
		close(fd);
	if (error) {
		memset(sight, 0, sizeof(*sight));
		writer.at = start + sizeof(*sight);
		sight->error = -error;
	}
	sight->size = writer.at - start;
	if (!one.known)
		return sight->size;
	if (one.known->size == sight->size && !memcmp(one.known, sight, sight->size))
		return 0;
	one.known = NULL;
	one.holds = 0;
	return look_at_one(where, one, start);
}

struct part {
	const struct place *where;
	const int *fds;
	int first, count;
	const struct mg_hints *hints;
	unsigned char *buffer, *start;
	struct mg_slice *spans;
};

/* The record of a socket whose answers others may take; NULL of an error. */
static const struct mg_sight *as_met(const struct mg_sight *sight)
{
	return sight->error || !sight->answers_size ? NULL : sight;
}

static int hint(const int *hints, int index)
{
	return hints ? hints[index] : -1;
}

static struct one known_of(const struct part *part, int index)
{
	const struct mg_hints *hints = part->hints;
	long long place = hints->places ? hints->places[index] : -1;
	int facts = hint(hints->fact_places, index);
	struct one one = {
		.number = part->fds[index],
		.text = hint(hints->texts, index),
		.known = place < 0 ? NULL : (void *)(hints->known + place),
	};

	if (one.known && facts >= 0)
		one.holds = mg_what_holds(one.known, &hints->facts[facts], &hints->operations);
	return one;
}

static void *look_at_part(void *argument)
{
	struct part *part = argument;
	unsigned char *at = part->start;
	const struct mg_sight *met[MG_MOST_KINDS] = {0}; /* the record of one of each kind */

	for (int i = 0; i < part->count; i++) {
		struct one one = known_of(part, part->first + i);
		int kind = hint(part->hints->kinds, part->first + i), size;

		one.like = kind < 0 ? NULL : met[kind];
		part->spans[i].start = at - part->buffer;
		part->spans[i].size = size = look_at_one(part->where, one, at);
		if (kind >= 0 && !one.like)
			met[kind] = as_met(size ? (void *)at : one.known);
		at += size;
	}
	return NULL;
}

static int open_folder(int pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

#define FEW 128 /* for which another thread does not pay */

static void look_at_all(const struct part *all)
{
	struct part parts[MG_MOST_PARTS];
	int many = mg_count_parts(all->count, FEW), done = 0;

	for (int i = 0; i < many; i++) {
		int end = mg_part_end(all->count, many, i);

		parts[i] = *all;
		parts[i].first += done;
		parts[i].spans += done;
		parts[i].start += (long long)done * MG_SIGHT_ROOM;
		parts[i].count = end - done;
		done = end;
	}
	mg_run_parts(look_at_part, parts, sizeof(parts[0]), many);
}

int mg_look_at_descriptors(int pid, int pidfd, const int *fds, int first, int count, const struct mg_option *options,
			   int option_count, const struct mg_hints *hints, unsigned char *buffer,
			   struct mg_slice *spans)
{
	struct place where = {
		.links = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC),
		.texts = open_folder(pid, "fdinfo"),
		.root = open_folder(pid, "root"),
		.pidfd = pidfd,
		.options = options,
		.option_count = option_count,
	};
	int error = where.links < 0 || where.texts < 0 || where.root < 0 ? -errno : 0;
	struct part all = {&where, fds, first, count, hints, buffer, buffer, spans};

	if (!error)
		look_at_all(&all);
	close(where.links);
	close(where.texts);
	close(where.root);
	return error;
}

struct search {
	const int *texts;
	int count;
	const char *wanted;
	unsigned char *found;
};

static void *search_part(void *argument)
{
	struct search *search = argument;
	char text[MG_SEARCHED];

	for (int i = 0; i < search->count; i++) {
		long size = pread(search->texts[i], text, sizeof(text), 0);

		search->found[i] = size > 0 && memmem(text, size, search->wanted, strlen(search->wanted));
	}
	return NULL;
}

void mg_search_texts(const int *texts, int count, const char *wanted, unsigned char *found)
{
	struct search parts[MG_MOST_PARTS];
	int many = mg_count_parts(count, FEW), done = 0;

	for (int i = 0; i < many; i++) {
		int end = mg_part_end(count, many, i);

		parts[i] = (struct search){texts + done, end - done, wanted, found + done};
		done = end;
	}
	mg_run_parts(search_part, parts, sizeof(parts[0]), many);
}
