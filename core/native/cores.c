// SPDX-License-Identifier: Apache-2.0
// Core images of many threads, for core/kernel/thread_cores.py: which threads are alike, and protobuf's wire format.
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <string.h>
#include <sys/user.h>

#include "abi.h"
#include "cores.h"
#include "parts.h"

#define CODE_64_BIT 0x33
#define IOPL 0x3000
#define ON_STACK 1
#define SCHED_DEADLINE_ 6
#define SCHEDULING offsetof(struct mg_facts, policy)

/* ---- which are alike ---- */

struct text {
	const char *at, *end;
};

/* What is known of a thread's status. */
struct status {
	struct text name, ids, rights;
	unsigned long long pending;
	long seccomp;
};

/* The rest of `text` from the line that begins with `key` on, its own line break before it; NULL: there is none. */
static const char *find_line(struct text text, const char *key)
{
	return memmem(text.at, text.end - text.at, key, strlen(key));
}

static const char *end_of_line(const char *at, const char *end)
{
	const char *found = memchr(at, '\n', end - at);

	return found ? found : end;
}

static int is_plain(struct text text)
{
	for (const char *at = text.at; at < text.end; at++)
		if (*at < 0x20 || *at > 0x7e || *at == '\\')
			return 0;
	return 1;
}

/* 0 unless it is all there, in the order in which the kernel writes it: core/proc/brief.py. */
static int parse_status(struct text text, struct status *status)
{
	static const char *const keys[] = {"\nUid:\t", "\nNStgid:\t", "\nSigPnd:\t", "\nCapInh:\t"};
	const char *lines[4], *at, *line;

	if (text.end - text.at < 7 || memcmp(text.at, "Name:\t", 6))
		return 0;
	status->name = (struct text){text.at + 6, end_of_line(text.at, text.end)};
	for (int i = 0; i < 4; i++) {
		lines[i] = find_line(text, keys[i]);
		if (!lines[i])
			return 0;
		text.at = lines[i] + 1;
	}
	status->ids = (struct text){lines[0], lines[1]};
	status->rights = (struct text){lines[3], text.end};
	status->pending = 0;
	at = lines[2] + strlen(keys[2]);
	for (const char *stop = end_of_line(at, text.end); at < stop; at++)
		status->pending |= *at != '0';
	status->seccomp = 0;
	line = find_line(text, "\nSeccomp:\t");
	if (line) {
		at = line + strlen("\nSeccomp:\t");
		status->rights.end = end_of_line(at, text.end);
		status->seccomp = status->rights.end - at != 1 || *at != '0';
	}
	return 1;
}

static int are_equal(struct text one, struct text other)
{
	return one.end - one.at == other.end - other.at && !memcmp(one.at, other.at, one.end - one.at);
}

static int are_alike(const struct mg_crowd *crowd, const struct mg_told *told, const struct status *statuses, int index,
		     int first_index)
{
	const struct mg_facts *facts = &told->facts[index], *first = &told->facts[first_index];
	const unsigned char *answers = crowd->answers + (size_t)index * crowd->answers_size;
	const unsigned char *others = crowd->answers + (size_t)first_index * crowd->answers_size;
	size_t size = offsetof(struct mg_facts, affinity) - SCHEDULING + facts->affinity_size;

	if (!are_equal(statuses[0].ids, statuses[1].ids) || !are_equal(statuses[0].rights, statuses[1].rights))
		return 0;
	if (memcmp((const char *)facts + SCHEDULING, (const char *)first + SCHEDULING, size))
		return 0;
	for (unsigned int i = 0; i < told->common_count; i++) {
		struct mg_range part = told->common[i];

		if (memcmp(answers + part.start, others + part.start, part.end - part.start))
			return 0;
	}
	return 1;
}

static int has_ordinary_registers(const struct mg_thread *thread)
{
	const struct user_regs_struct *regs = (const struct user_regs_struct *)thread->regs;

	return thread->robust_len <= UINT_MAX && regs->cs == CODE_64_BIT && !(regs->eflags & IOPL);
}

static int is_ordinary(const struct mg_crowd *crowd, const struct mg_told *told, const struct status *status, int index)
{
	long long keyring;

	memcpy(&keyring, crowd->answers + (size_t)index * crowd->answers_size + told->keyring, sizeof(keyring));
	return !status->pending && !status->seccomp && is_plain(status->name) &&
	       status->name.end - status->name.at <= MG_COMM_MAX && has_ordinary_registers(&crowd->threads[index]) &&
	       !told->facts[index].has_io_ports && keyring <= 0;
}

int mg_sort_crowd(const struct mg_crowd *crowd, const struct mg_told *told, struct mg_member *members, int *firsts,
		  int most)
{
	struct status known[most], statuses[2];
	const char *at = (const char *)told->texts;
	int count = 0, group = 0;

	for (int i = 0; i < crowd->count; i++) {
		struct text text = {at, at + told->text_sizes[i]};

		at = text.end;
		members[i] = (struct mg_member){-1};
		if (!parse_status(text, &statuses[0]) || !is_ordinary(crowd, told, &statuses[0], i))
			continue;
		members[i].comm = statuses[0].name.at;
		members[i].comm_size = statuses[0].name.end - statuses[0].name.at;
		for (int tried = 0; tried < count && members[i].group < 0; tried++, group = (group + 1) % count) {
			statuses[1] = known[group];
			if (are_alike(crowd, told, statuses, i, firsts[group])) {
				members[i].group = group;
				break;
			}
		}
		if (members[i].group >= 0 || count == most)
			continue;
		known[count] = statuses[0];
		firsts[count] = i;
		members[i].group = group = count++;
	}
	return count;
}

static const struct mg_record *record_of(const struct mg_crowd *crowd, int index)
{
	return (const struct mg_record *)(crowd->answers + (size_t)index * crowd->answers_size);
}

static int is_ordinary_record(const struct mg_record *record, struct text name)
{
	for (size_t i = 0; i < sizeof(record->special) / sizeof(record->special[0]); i++)
		if (record->special[i])
			return 0;
	return record->policy != SCHED_DEADLINE_ && is_plain(name);
}

int mg_sort_records(const struct mg_crowd *crowd, struct mg_member *members, int *firsts, int most)
{
	const size_t start = offsetof(struct mg_record, policy), size = crowd->answers_size - start;
	int count = 0, group = 0;

	for (int i = 0; i < crowd->count; i++) {
		const struct mg_record *record = record_of(crowd, i);
		struct text name = {record->comm, record->comm + strnlen(record->comm, sizeof(record->comm))};

		members[i] = (struct mg_member){-1, name.end - name.at, name.at};
		if (!is_ordinary_record(record, name) || !has_ordinary_registers(&crowd->threads[i]))
			continue;
		for (int tried = 0; tried < count; tried++, group = (group + 1) % count)
			if (!memcmp(&record->policy, &record_of(crowd, firsts[group])->policy, size)) {
				members[i].group = group;
				break;
			}
		if (members[i].group >= 0 || count == most)
			continue;
		firsts[count] = i;
		members[i].group = group = count++;
	}
	return count;
}

/* ---- protobuf ---- */

enum { VARINT, BYTES = 2 };

/* A message is written from its end to its beginning, so that every size is known when it is written. */
struct writer {
	unsigned char *at;
};

static void put_number(struct writer *writer, unsigned long long value)
{
	unsigned char digits[10];
	int count = 0;

	do
		digits[count++] = (value & 0x7f) | 0x80;
	while (value >>= 7);
	digits[count - 1] &= 0x7f;
	writer->at -= count;
	memcpy(writer->at, digits, count);
}

static void put_field(struct writer *writer, unsigned int number, unsigned long long value)
{
	put_number(writer, value);
	put_number(writer, number << 3 | VARINT);
}

static void put_raw(struct writer *writer, const void *content, size_t size)
{
	writer->at -= size;
	memcpy(writer->at, content, size);
}

/* The head of a message or of bytes that have been written already, up to `end`. */
static void put_head(struct writer *writer, unsigned int number, const unsigned char *end)
{
	put_number(writer, end - writer->at);
	put_number(writer, number << 3 | BYTES);
}

static void put_bytes(struct writer *writer, unsigned int number, const void *content, size_t size)
{
	const unsigned char *end = writer->at;

	put_raw(writer, content, size);
	put_head(writer, number, end);
}

static void put_piece(struct writer *writer, const struct mg_alike *alike, int piece)
{
	put_raw(writer, alike->bytes + alike->pieces[piece].start, alike->pieces[piece].size);
}

/* Of core.proto: fields of CoreEntry, of ThreadCoreEntry, of ThreadInfoX86. */
enum { MTYPE = 1, THREAD_INFO = 2, THREAD_CORE = 5, X86_64 = 1 };
enum { ROBUST_HEAD = 1, ROBUST_SIZE = 2, SIGMASK = 6, STACK = 7, COMM = 13, RSEQ = 15, XSTATE = 50000 };
enum { CLEAR_TID = 1, REGISTERS = 2, MODE = 28, NATIVE = 1 };
/* What of a group lies where: see core/kernel/thread_cores.py. */
enum { SCHEDULED, RIGHTS, CGROUP, SETTINGS, FLOATING, PIECES };

_Static_assert(sizeof(((struct mg_alike *)0)->pieces) == PIECES * sizeof(struct mg_slice), "a place for each");

static int is_restarted(const struct user_regs_struct *regs)
{
	long result = regs->rax;

	return (long)regs->orig_rax >= 0 && (result == -512 || result == -513 || result == -514 || result == -516);
}

static void put_info(struct writer *writer, const struct mg_thread *thread, unsigned long long clear_child_tid,
		     const struct mg_alike *alike)
{
	struct user_regs_struct regs = *(const struct user_regs_struct *)thread->regs;
	const unsigned char *end = writer->at, *registers_end;
	unsigned long long words[sizeof(regs) / 8];

	if (is_restarted(&regs)) {
		regs.rax = regs.orig_rax;
		regs.rip -= 2;
		regs.orig_rax = -1;
	}
	memcpy(words, &regs, sizeof(regs));
	put_piece(writer, alike, FLOATING);
	registers_end = writer->at;
	put_field(writer, MODE, NATIVE);
	for (int i = sizeof(regs) / 8; i > 0; i--)
		put_field(writer, i, words[i - 1]);
	put_head(writer, REGISTERS, registers_end);
	put_field(writer, CLEAR_TID, clear_child_tid);
	put_head(writer, THREAD_INFO, end);
}

static void put_rseq(struct writer *writer, const struct mg_thread *thread)
{
	const unsigned char *end = writer->at;

	put_field(writer, 3, thread->rseq_signature);
	put_field(writer, 2, thread->rseq_size);
	put_field(writer, 1, thread->rseq_address);
	put_head(writer, RSEQ, end);
}

/* `stack`: a stack_t. */
static void put_stack(struct writer *writer, const unsigned char *stack)
{
	struct {
		unsigned long long pointer;
		unsigned int flags, pad;
		unsigned long long size;
	} found;
	const unsigned char *end = writer->at;

	memcpy(&found, stack, sizeof(found));
	put_field(writer, 3, found.flags & ~ON_STACK);
	put_field(writer, 2, found.size);
	put_field(writer, 1, found.pointer);
	put_head(writer, STACK, end);
}

static void put_core(struct writer *writer, const struct mg_crowd *crowd, int index, const struct mg_member *member,
		     const struct mg_alike *alike)
{
	const struct mg_thread *thread = &crowd->threads[index];
	const unsigned char *answers = crowd->answers + (size_t)index * crowd->answers_size, *end = writer->at;
	unsigned int size = thread->xstate_size < crowd->xstate_most ? thread->xstate_size : crowd->xstate_most;
	unsigned long long clear_child_tid;

	memcpy(&clear_child_tid, answers + crowd->clear_child_tid, sizeof(clear_child_tid));
	put_piece(writer, alike, SETTINGS);
	put_bytes(writer, XSTATE, thread->xstate, size);
	put_piece(writer, alike, CGROUP);
	if (thread->rseq_address)
		put_rseq(writer, thread);
	put_bytes(writer, COMM, member->comm, member->comm_size);
	put_piece(writer, alike, RIGHTS);
	put_stack(writer, answers + crowd->stack);
	put_field(writer, SIGMASK, thread->sigmask);
	put_piece(writer, alike, SCHEDULED);
	put_field(writer, ROBUST_SIZE, thread->robust_len);
	put_field(writer, ROBUST_HEAD, thread->robust_head);
	put_head(writer, THREAD_CORE, end);
	put_info(writer, thread, clear_child_tid, alike);
	put_field(writer, MTYPE, X86_64);
}

#define NUMBERS_MOST (50 * 13) /* every number takes 10 bytes and its field's number 3, at most */

_Static_assert(NUMBERS_MOST + MG_COMM_MAX <= MG_CORE_ROOM, "what callers count on");

static long long most_bytes(const struct mg_crowd *crowd, const struct mg_alike *alike)
{
	long long size = MG_CORE_ROOM + crowd->xstate_most;

	for (int i = 0; i < PIECES; i++)
		size += alike->pieces[i].size;
	return size;
}

struct part {
	const struct mg_crowd *crowd;
	const struct mg_member *members;
	const struct mg_alike *groups;
	unsigned char *buffer;
	long long room; /* for each */
	struct mg_slice *spans;
	int first, end, error;
};

/* Each image ends where the room of its thread does. */
static void *encode_part(void *argument)
{
	struct part *part = argument;

	for (int i = part->first; i < part->end; i++) {
		const struct mg_member *member = &part->members[i];
		long long end = (i + 1) * part->room;
		struct writer writer = {part->buffer + end};

		part->spans[i] = (struct mg_slice){0, 0};
		if (member->group < 0)
			continue;
		if (part->room < most_bytes(part->crowd, &part->groups[member->group])) {
			part->error = -ENOSPC;
			break;
		}
		put_core(&writer, part->crowd, i, member, &part->groups[member->group]);
		part->spans[i] = (struct mg_slice){writer.at - part->buffer, end - (writer.at - part->buffer)};
	}
	return NULL;
}

#define FEW 256 /* for which another thread does not pay */

int mg_encode_crowd(const struct mg_crowd *crowd, const struct mg_member *members, const struct mg_alike *groups,
		    unsigned char *buffer, long long room, struct mg_slice *spans)
{
	struct part parts[MG_MOST_PARTS];
	int many = mg_count_parts(crowd->count, FEW), error = 0;

	for (int i = 0; i < many; i++)
		parts[i] = (struct part){crowd,
					 members,
					 groups,
					 buffer,
					 room,
					 spans,
					 i ? parts[i - 1].end : 0,
					 mg_part_end(crowd->count, many, i)};
	mg_run_parts(encode_part, parts, sizeof(parts[0]), many);
	for (int i = 0; i < many; i++)
		error = parts[i].error ? parts[i].error : error;
	return error;
}
