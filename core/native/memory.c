// SPDX-License-Identifier: Apache-2.0
// Bulk work over the pages of another process: one call for many spans.
#define _GNU_SOURCE
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "abi.h"
#include "memory.h"

#define PAGE 4096ULL
#define READ_VECTORS 1024
#define ENTRIES_AT_ONCE 4096
/*
 * PAGEMAP_SCAN collects so many regions at a time. Given room for more it goes
 * on, but then leaves walk_end where it had stopped before, although all up to
 * the end was scanned (v6.18): a scan resumed there tells pages out of order.
 */
#define KERNEL_REGIONS 512
#define HUGE_PAGES 512

/* /proc/PID/pagemap entries: Documentation/admin-guide/mm/pagemap.rst */
#define ENTRY_PRESENT (1ULL << 63)
#define ENTRY_SWAPPED (1ULL << 62)
#define ENTRY_FILE (1ULL << 61)
#define ENTRY_GUARD (1ULL << 58)
#define ENTRY_SOFT_DIRTY (1ULL << 55)
#define ENTRY_PFN ((1ULL << 55) - 1)

/* struct pm_scan_arg of linux/fs.h (in v6.7); Debian 12's headers are older. */
struct scan_argument {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define SCAN_REQUEST _IOWR('f', 16, struct scan_argument)

_Static_assert(sizeof(struct scan_argument) == 96, "the size is part of the request number");
_Static_assert(sizeof(struct mg_page_region) == 24, "the kernel's page_region");

#ifdef PAGEMAP_SCAN
_Static_assert(SCAN_REQUEST == PAGEMAP_SCAN, "request number");
_Static_assert(MG_PAGE_SOFT_DIRTY == PAGE_IS_SOFT_DIRTY, "category bits");
#endif

static int scan_once(int pagemap_fd, uint64_t start, uint64_t end, const struct mg_scan *scan,
		     struct mg_page_region *regions, int capacity, uint64_t max_pages, uint64_t *walk_end)
{
	struct scan_argument argument = {
		.size = sizeof(argument),
		.flags = scan->flags,
		.start = start,
		.end = end,
		.vec = (uintptr_t)regions,
		.vec_len = capacity,
		.max_pages = max_pages,
		.category_inverted = scan->category_inverted,
		.category_mask = scan->category_mask,
		.category_anyof_mask = scan->category_anyof_mask,
		.return_mask = scan->return_mask,
	};
	int result;

	do {
		result = ioctl(pagemap_fd, SCAN_REQUEST, &argument);
	} while (result < 0 && errno == EINTR);
	*walk_end = argument.walk_end;
	return result < 0 ? -errno : result;
}

/* Move to the next span; its first address, unless there is none. */
static void next_span(struct mg_scan_position *position, const struct mg_span *spans, int count)
{
	position->span++;
	position->address = position->span < count ? spans[position->span].start : 0;
}

int mg_pagemap_scan(int pagemap_fd, const struct mg_span *spans, int count, const struct mg_scan *scan,
		    struct mg_page_region *regions, int capacity, struct mg_scan_position *position)
{
	int filled = 0;

	while (position->span < count && filled < capacity) {
		uint64_t end = spans[position->span].end, walk_end;
		int room = capacity - filled < KERNEL_REGIONS ? capacity - filled : KERNEL_REGIONS;
		int found = scan_once(pagemap_fd, position->address, end, scan, regions + filled, room, 0, &walk_end);

		if (found < 0)
			return found;
		filled += found;
		if (walk_end < end && found)
			position->address = walk_end;
		else
			next_span(position, spans, count);
	}
	return filled;
}

static uint64_t entry_categories(uint64_t entry, uint64_t zero_pfn, uint64_t huge_zero_pfn)
{
	uint64_t categories = 0, pfn = entry & ENTRY_PFN;
	int huge_zero = huge_zero_pfn != MG_NO_PFN && pfn - huge_zero_pfn < HUGE_PAGES;

	if (entry & ENTRY_GUARD)
		return MG_PAGE_GUARD;
	if (!(entry & (ENTRY_PRESENT | ENTRY_SWAPPED)))
		return 0;
	categories |= entry & ENTRY_PRESENT ? MG_PAGE_PRESENT : MG_PAGE_SWAPPED;
	categories |= entry & ENTRY_FILE ? MG_PAGE_FILE : 0;
	categories |= entry & ENTRY_SOFT_DIRTY ? MG_PAGE_SOFT_DIRTY : 0;
	if (entry & ENTRY_PRESENT && (pfn == zero_pfn || huge_zero))
		categories |= MG_PAGE_PFNZERO;
	return categories;
}

int mg_pagemap_parse(const unsigned long long *entries, int count, unsigned long long address,
		     unsigned long long zero_pfn, unsigned long long huge_zero_pfn, struct mg_page_region *regions,
		     int capacity, int *used)
{
	int filled = 0, i;

	for (i = 0; i < count; i++, address += PAGE) {
		uint64_t categories = entry_categories(entries[i], zero_pfn, huge_zero_pfn);
		struct mg_page_region *last = filled ? &regions[filled - 1] : NULL;

		if (!categories)
			continue;
		if (last && last->end == address && last->categories == categories) {
			last->end += PAGE;
			continue;
		}
		if (filled == capacity)
			break;
		regions[filled++] = (struct mg_page_region){address, address + PAGE, categories};
	}
	*used = i;
	return filled;
}

int mg_pagemap_read(int pagemap_fd, const struct mg_span *spans, int count, unsigned long long zero_pfn,
		    unsigned long long huge_zero_pfn, struct mg_page_region *regions, int capacity,
		    struct mg_scan_position *position)
{
	unsigned long long entries[ENTRIES_AT_ONCE];
	int filled = 0, used;

	while (position->span < count && filled < capacity) {
		uint64_t address = position->address, end = spans[position->span].end;
		size_t wanted = (end - address) / PAGE < ENTRIES_AT_ONCE ? (end - address) / PAGE : ENTRIES_AT_ONCE;
		ssize_t got = pread(pagemap_fd, entries, wanted * 8, address / PAGE * 8);

		if (got < 0)
			return -errno;
		filled += mg_pagemap_parse(entries, got / 8, address, zero_pfn, huge_zero_pfn, regions + filled,
					   capacity - filled, &used);
		position->address += used * PAGE;
		if (position->address >= end || got == 0)
			next_span(position, spans, count);
	}
	return filled;
}

/* 0: every page of the VMA is write-protect tracked; -EPERM: not. */
static int probe_tracked(int pagemap_fd, const struct mg_tracked_vma *vma)
{
	const struct mg_scan any = {.flags = MG_SCAN_CHECK_WPASYNC, .return_mask = MG_PAGE_PRESENT};
	struct mg_page_region region;
	uint64_t walk_end;
	int found = scan_once(pagemap_fd, vma->start, vma->end, &any, &region, 1, 1, &walk_end);

	return found < 0 ? found : 0;
}

/*
 * After an mremap merge the kernel has dropped a VMA's registration but left
 * its pages' bits: stores made meanwhile look clean. So REGISTER never goes
 * without clearing all bits; then every present page counts as written.
 */
static int register_unprotected(int uffd, const struct mg_tracked_vma *vma)
{
	struct uffdio_range range = {vma->start, vma->end - vma->start};
	struct uffdio_register registration = {.range = range, .mode = UFFDIO_REGISTER_MODE_WP};
	struct uffdio_writeprotect protection = {.range = range, .mode = 0};

	int result = ioctl(uffd, UFFDIO_REGISTER, &registration) ? -errno : 0;

	if (result && result != -ENOMEM)
		return result;
	if (!ioctl(uffd, UFFDIO_WRITEPROTECT, &protection))
		return result;
	/* With its mm gone (exit, exec) REGISTER says ENOMEM, only this ESRCH. */
	return errno == ESRCH || !result ? -errno : result;
}

int mg_uffd_track(int pagemap_fd, int uffd, struct mg_tracked_vma *vmas, int count)
{
	int registered = 0;

	for (int i = 0; i < count; i++) {
		vmas[i].error = vmas[i].force ? -EPERM : probe_tracked(pagemap_fd, &vmas[i]);
		if (vmas[i].error != -EPERM)
			continue;
		vmas[i].force = 1;
		vmas[i].error = register_unprotected(uffd, &vmas[i]);
		/* Look again: the process may have moved on, or not be the uffd's. */
		if (!vmas[i].error && probe_tracked(pagemap_fd, &vmas[i]))
			vmas[i].error = -EAGAIN;
		registered += !vmas[i].error;
	}
	return registered;
}

/* Where a walk over spans stands: address lies in spans[index]. */
struct cursor {
	const struct mg_span *spans;
	int count, index;
	uint64_t address;
};

static struct cursor cursor_begin(const struct mg_span *spans, int count)
{
	return (struct cursor){spans, count, 0, count ? spans[0].start : 0};
}

static void cursor_advance(struct cursor *cursor, uint64_t bytes)
{
	while (cursor->index < cursor->count) {
		uint64_t rest = cursor->spans[cursor->index].end - cursor->address;

		if (bytes < rest) {
			cursor->address += bytes;
			return;
		}
		bytes -= rest;
		if (++cursor->index < cursor->count)
			cursor->address = cursor->spans[cursor->index].start;
	}
}

static void append_span(struct mg_span *spans, int *count, uint64_t start, uint64_t end)
{
	if (*count && spans[*count - 1].end == start)
		spans[*count - 1].end = end;
	else
		spans[(*count)++] = (struct mg_span){start, end};
}

static long readv_batch(int pid, const struct cursor *from, unsigned char *buffer)
{
	struct iovec remote[READ_VECTORS], local = {buffer, 0};
	uint64_t start = from->address;
	int vectors = 0;
	ssize_t got;

	for (int i = from->index; i < from->count && vectors < READ_VECTORS; i++) {
		if (i != from->index)
			start = from->spans[i].start;
		remote[vectors].iov_base = (void *)(uintptr_t)start;
		remote[vectors].iov_len = from->spans[i].end - start;
		local.iov_len += remote[vectors++].iov_len;
	}
	got = process_vm_readv(pid, &local, 1, remote, vectors, 0);
	if (got < 0)
		return errno == EFAULT ? 0 : -errno;
	return got / PAGE * PAGE;
}

/* The rest of the cursor's span through /proc/PID/mem; 0: not even one page. */
static long read_by_mem(int mem_fd, const struct cursor *from, unsigned char *buffer)
{
	ssize_t got = pread(mem_fd, buffer, from->spans[from->index].end - from->address, from->address);

	if (got < 0)
		return errno == EIO || errno == EFAULT ? 0 : -errno;
	return got == 0 ? -ESRCH : (long)(got / PAGE * PAGE);
}

long mg_read_spans(int pid, int mem_fd, const struct mg_span *spans, int count, unsigned char *buffer,
		   struct mg_span *missing, int *missing_count)
{
	struct cursor cursor = cursor_begin(spans, count);
	long filled = 0, got;

	*missing_count = 0;
	while (cursor.index < count) {
		got = pid ? readv_batch(pid, &cursor, buffer + filled) : 0;
		if (got == 0)
			got = read_by_mem(mem_fd, &cursor, buffer + filled);
		if (got < 0)
			return got;
		filled += got;
		if (got == 0) {
			append_span(missing, missing_count, cursor.address, cursor.address + PAGE);
			got = PAGE;
		}
		cursor_advance(&cursor, got);
	}
	return filled;
}

static ssize_t write_all(int fd, const unsigned char *bytes, size_t size, uint64_t address)
{
	size_t written = 0;

	while (written < size) {
		ssize_t got = pwrite(fd, bytes + written, size - written, address + written);

		if (got > 0) {
			written += got;
			continue;
		}
		if (got == 0)
			errno = ESRCH; /* the mm is gone */
		if (got < 0 && errno == EINTR)
			continue;
		break;
	}
	return written;
}

long mg_write_spans(int mem_fd, const struct mg_span *spans, int count, const unsigned char *buffer, int *error)
{
	long total = 0;

	*error = 0;
	for (int i = 0; i < count; i++) {
		size_t size = spans[i].end - spans[i].start;
		size_t written = write_all(mem_fd, buffer + total, size, spans[i].start);

		total += written;
		if (written == size)
			continue;
		*error = errno;
		break;
	}
	return total;
}

long mg_zero_spans(int mem_fd, const struct mg_span *spans, int count, int *error)
{
	static unsigned char zeros[64 * PAGE];
	long total = 0;

	*error = 0;
	for (int i = 0; i < count && !*error; i++) {
		for (uint64_t at = spans[i].start; at < spans[i].end && !*error;) {
			size_t size = spans[i].end - at < sizeof(zeros) ? spans[i].end - at : sizeof(zeros);
			size_t written = write_all(mem_fd, zeros, size, at);

			*error = written == size ? 0 : errno;
			total += written;
			at += written;
		}
	}
	return total;
}

typedef uint64_t __attribute__((may_alias)) word;

static int is_zero_page(const unsigned char *page)
{
	const word *words = (const word *)page;

	for (unsigned int i = 0; i < PAGE / sizeof(word); i += 8)
		if (words[i] | words[i + 1] | words[i + 2] | words[i + 3] | words[i + 4] | words[i + 5] | words[i + 6] |
		    words[i + 7])
			return 0;
	return 1;
}

long mg_drop_zero_pages(unsigned char *buffer, const struct mg_span *spans, int count, struct mg_span *kept,
			int *kept_count, struct mg_span *zero, int *zero_count)
{
	unsigned char *to = buffer, *from = buffer;

	*kept_count = *zero_count = 0;
	for (int i = 0; i < count; i++) {
		for (uint64_t at = spans[i].start; at < spans[i].end; at += PAGE, from += PAGE) {
			if (is_zero_page(from)) {
				append_span(zero, zero_count, at, at + PAGE);
				continue;
			}
			append_span(kept, kept_count, at, at + PAGE);
			if (to != from)
				memcpy(to, from, PAGE);
			to += PAGE;
		}
	}
	return to - buffer;
}

#define CRC32C_REVERSED 0x82f63b78U

static uint32_t crc32c_bytes(uint32_t crc, const unsigned char *bytes, uint64_t size)
{
	while (size--) {
		crc ^= *bytes++;
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? CRC32C_REVERSED : 0);
	}
	return crc;
}

__attribute__((target("sse4.2"))) static uint32_t crc32c_words(uint32_t crc, const unsigned char *bytes, uint64_t size)
{
	uint64_t wide = crc;

	for (; size >= sizeof(word); size -= sizeof(word), bytes += sizeof(word))
		wide = __builtin_ia32_crc32di(wide, *(const word *)bytes);
	return crc32c_bytes(wide, bytes, size);
}

unsigned int mg_crc32c(unsigned int crc, const unsigned char *bytes, unsigned long long size)
{
	crc = ~crc;
	crc = __builtin_cpu_supports("sse4.2") ? crc32c_words(crc, bytes, size) : crc32c_bytes(crc, bytes, size);
	return ~crc;
}

static uint64_t hash_page(const unsigned char *page, const unsigned long long *key)
{
	const word *words = (const word *)page;
	unsigned __int128 sum = (unsigned __int128)key[0] << 64 | key[1];

	for (unsigned int i = 0; i < PAGE / sizeof(word); i++)
		sum += ((unsigned __int128)key[2 * i + 2] << 64 | key[2 * i + 3]) * words[i];
	return sum >> 64 ? sum >> 64 : 1;
}

_Static_assert(MG_HASH_KEY_WORDS == 2 * (PAGE / sizeof(word) + 1), "128 bits for every word and the constant");

void mg_hash_pages(const unsigned char *buffer, long pages, const unsigned long long *key, unsigned long long *hashes)
{
	for (long i = 0; i < pages; i++)
		hashes[i] = hash_page(buffer + i * PAGE, key);
}
