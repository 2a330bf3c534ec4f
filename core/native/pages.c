/* Pages between processes and pages files: checksums, holes, filling of fresh memory. */
#define _GNU_SOURCE
#include "abi.h"
#include "memory.h"
#include "pages.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PAGE 4096
#define AT_ONCE 64 /* pages: they stay in the cache between checksum and copy */

typedef uint64_t __attribute__((may_alias)) word;

/* Three at a time: one alone waits for itself. */
__attribute__((target("sse4.2"))) static void crc_three(const unsigned char *memory, unsigned int *crcs)
{
	const word *a = (const word *)memory, *b = a + PAGE / sizeof(word), *c = b + PAGE / sizeof(word);
	uint64_t x = ~0U, y = ~0U, z = ~0U;

	for (unsigned int i = 0; i < PAGE / sizeof(word); i++) {
		x = __builtin_ia32_crc32di(x, a[i]);
		y = __builtin_ia32_crc32di(y, b[i]);
		z = __builtin_ia32_crc32di(z, c[i]);
	}
	crcs[0] = ~(uint32_t)x;
	crcs[1] = ~(uint32_t)y;
	crcs[2] = ~(uint32_t)z;
}

void mg_page_crcs(const unsigned char *memory, int count, unsigned int *crcs)
{
	int i = 0;

	if (__builtin_cpu_supports("sse4.2"))
		for (; i + 3 <= count; i += 3)
			crc_three(memory + (size_t)i * PAGE, crcs + i);
	for (; i < count; i++)
		crcs[i] = mg_crc32c(0, memory + (size_t)i * PAGE, PAGE);
}

static int is_zero(const unsigned char *page)
{
	const word *words = (const word *)page;

	return !words[0] && !memcmp(page, page + sizeof(word), PAGE - sizeof(word));
}

/* Length of the stretch of pages from `at` on that are all zero, or all not. */
static int stretch(const unsigned char *memory, int at, int count, int *zero)
{
	int end = at + 1;

	*zero = is_zero(memory + (size_t)at * PAGE);
	while (end < count && is_zero(memory + (size_t)end * PAGE) == *zero)
		end++;
	return end - at;
}

static int write_at(int fd, const unsigned char *bytes, size_t size, uint64_t offset)
{
	while (size) {
		ssize_t got = pwrite(fd, bytes, size, offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? -errno : -ESRCH; /* the mm is gone */
		bytes += got;
		offset += got;
		size -= got;
	}
	return 0;
}

int mg_store_pages(int fd, unsigned long long offset, const unsigned char *memory, int count, unsigned int *crcs)
{
	mg_page_crcs(memory, count, crcs);
	for (int at = 0, zero, length; at < count; at += length) {
		int error;

		length = stretch(memory, at, count, &zero);
		error = zero ? 0
			     : write_at(fd, memory + (size_t)at * PAGE, (size_t)length * PAGE,
					offset + (uint64_t)at * PAGE);
		if (error)
			return error;
	}
	return 0;
}

static int read_at(int fd, unsigned char *bytes, size_t size, uint64_t offset)
{
	while (size) {
		ssize_t got = pread(fd, bytes, size, offset);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return got ? errno : ENODATA;
		bytes += got;
		offset += got;
		size -= got;
	}
	return 0;
}

/* One UFFDIO_COPY must stay inside one VMA: ENOENT, and half as much is tried. 0 or -errno; *done in bytes. */
static int copy_some(int uffd, const unsigned char *from, uint64_t address, size_t size, size_t *done)
{
	for (;; size = size / PAGE / 2 * PAGE) {
		struct uffdio_copy copy = {.dst = address, .src = (uintptr_t)from, .len = size};
		int failed = ioctl(uffd, UFFDIO_COPY, &copy);

		*done = copy.copy > 0 ? copy.copy : 0;
		if (!failed || *done || errno == EAGAIN)
			return 0;
		if (errno != ENOENT || size == PAGE)
			return -errno;
	}
}

/* Pages into memory where nothing is; one that is there already is written over. */
static int copy_fresh(const struct mg_fill *fill, const unsigned char *from, uint64_t address, size_t size)
{
	while (size) {
		size_t done;
		int error = copy_some(fill->uffd, from, address, size, &done);

		if (error == -EEXIST) {
			error = write_at(fill->mem_fd, from, PAGE, address);
			done = PAGE;
		}
		if (error)
			return error;
		from += done;
		address += done;
		size -= done;
	}
	return 0;
}

/* One page where reading fails: nothing is there, it was zero when what is shared was filled. */
static int put_missing(const struct mg_fill *fill, const unsigned char *page, uint64_t address)
{
	return is_zero(page) ? 0 : -copy_fresh(fill, page, address, PAGE);
}

/* Write the pages that differ from what is there. */
static int put_differing(const struct mg_fill *fill, const unsigned char *pages, int count, uint64_t address)
{
	unsigned char there[AT_ONCE * PAGE] __attribute__((aligned(PAGE)));
	int error = read_at(fill->mem_fd, there, (size_t)count * PAGE, address);

	if (error == EIO && fill->uffd >= 0) {
		if (count == 1)
			return put_missing(fill, pages, address);
		for (int at = 0; at < count; at++) {
			error = put_differing(fill, pages + (size_t)at * PAGE, 1, address + (uint64_t)at * PAGE);
			if (error)
				return error;
		}
		return 0;
	}
	for (int at = 0; at < count && !error; at++) {
		size_t offset = (size_t)at * PAGE;

		if (memcmp(pages + offset, there + offset, PAGE))
			error = -write_at(fill->mem_fd, pages + offset, PAGE, address + offset);
	}
	return error;
}

static int put(const struct mg_fill *fill, const unsigned char *pages, int count, uint64_t address)
{
	if (fill->mem_fd < 0)
		return 0;
	if (fill->shared)
		return put_differing(fill, pages, count, address);
	if (fill->uffd < 0)
		return -write_at(fill->mem_fd, pages, (size_t)count * PAGE, address);
	for (int at = 0, zero, length; at < count; at += length) {
		int error;

		length = stretch(pages, at, count, &zero);
		error = zero ? 0
			     : copy_fresh(fill, pages + (size_t)at * PAGE, address + (uint64_t)at * PAGE,
					  (size_t)length * PAGE);
		if (error)
			return -error;
	}
	return 0;
}

/* How many of the pages are as their checksums say, from the first on. */
static int check(const struct mg_fill *fill, const unsigned char *pages, int count, int first)
{
	unsigned int found[AT_ONCE];

	if (!fill->crcs)
		return count;
	mg_page_crcs(pages, count, found);
	for (int i = 0; i < count; i++) {
		if (found[i] == fill->crcs[first + i])
			continue;
		if (fill->punched && is_zero(pages + (size_t)i * PAGE))
			continue;
		return i;
	}
	return count;
}

long long mg_fill_pages(const struct mg_fill *fill, int *error)
{
	unsigned char pages[AT_ONCE * PAGE] __attribute__((aligned(PAGE)));
	uint64_t done = 0;

	*error = 0;
	while (done < fill->size && !*error) {
		uint64_t left = (fill->size - done) / PAGE;
		int count = left < AT_ONCE ? left : AT_ONCE, good;

		*error = read_at(fill->pages_fd, pages, (size_t)count * PAGE, fill->offset + done);
		if (*error)
			break;
		good = check(fill, pages, count, done / PAGE);
		if (good < count) {
			*error = MG_BAD_CHECKSUM;
			return done + (uint64_t)good * PAGE;
		}
		*error = put(fill, pages, count, fill->address + done);
		if (!*error)
			done += (uint64_t)count * PAGE;
	}
	return done;
}

int mg_differing_pages(const unsigned char *one, const unsigned char *other, int count, int *differing)
{
	int found = 0;

	for (int i = 0; i < count; i++)
		if (memcmp(one + (size_t)i * PAGE, other + (size_t)i * PAGE, PAGE))
			differing[found++] = i;
	return found;
}
