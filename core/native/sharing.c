// SPDX-License-Identifier: Apache-2.0
// Which pages several address spaces have in common: one call for many pages.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "abi.h"
#include "sharing.h"

#define PAGE 4096ULL
#define ENTRIES_AT_ONCE 4096
#define HUGE_PAGES 512

/* /proc/PID/pagemap entries: Documentation/admin-guide/mm/pagemap.rst */
#define ENTRY_PRESENT (1ULL << 63)
#define ENTRY_FILE (1ULL << 61)
#define ENTRY_PFN ((1ULL << 55) - 1)

static uint64_t frame_of(uint64_t entry, uint64_t zero_pfn, uint64_t huge_zero_pfn)
{
	uint64_t frame = entry & ENTRY_PFN;

	if ((entry & (ENTRY_PRESENT | ENTRY_FILE)) != ENTRY_PRESENT || frame == zero_pfn)
		return 0;
	return huge_zero_pfn != MG_NO_PFN && frame - huge_zero_pfn < HUGE_PAGES ? 0 : frame;
}

int mg_read_frames(int pagemap_fd, const struct mg_span *spans, int count, unsigned long long zero_pfn,
		   unsigned long long huge_zero_pfn, unsigned long long *frames)
{
	unsigned long long entries[ENTRIES_AT_ONCE];

	for (int i = 0; i < count; i++) {
		uint64_t pages = (spans[i].end - spans[i].start) / PAGE, first = spans[i].start / PAGE;

		for (uint64_t done = 0; done < pages;) {
			size_t wanted = pages - done < ENTRIES_AT_ONCE ? pages - done : ENTRIES_AT_ONCE;
			ssize_t got = pread(pagemap_fd, entries, wanted * 8, (first + done) * 8);

			if (got < 0)
				return -errno;
			memset((char *)entries + got, 0, wanted * 8 - got);
			for (size_t j = 0; j < wanted; j++)
				*frames++ = frame_of(entries[j], zero_pfn, huge_zero_pfn);
			done += wanted;
		}
	}
	return 0;
}

void mg_vote(const unsigned long long *keys, long pages, unsigned long long *elected, unsigned int *votes)
{
	for (long i = 0; i < pages; i++) {
		if (!keys[i])
			continue;
		if (keys[i] == elected[i]) {
			votes[i]++;
		} else if (votes[i]) {
			votes[i]--;
		} else {
			elected[i] = keys[i];
			votes[i] = 1;
		}
	}
}

void mg_count_votes(const unsigned long long *keys, long pages, const unsigned long long *elected, unsigned int *votes)
{
	for (long i = 0; i < pages; i++)
		votes[i] += keys[i] && keys[i] == elected[i];
}

void mg_drop_single(unsigned long long *elected, long pages, const unsigned int *votes)
{
	for (long i = 0; i < pages; i++)
		if (votes[i] < 2)
			elected[i] = 0;
}

static void append_page(struct mg_span *spans, int *count, uint64_t start)
{
	if (*count && spans[*count - 1].end == start)
		spans[*count - 1].end = start + PAGE;
	else
		spans[(*count)++] = (struct mg_span){start, start + PAGE};
}

int mg_same_keys(const struct mg_span *spans, int count, const unsigned long long *keys, unsigned long long *others,
		 int take, struct mg_span *same)
{
	int found = 0;
	long page = 0;

	for (int i = 0; i < count; i++) {
		for (uint64_t at = spans[i].start; at < spans[i].end; at += PAGE, page++) {
			if (!keys[page] || keys[page] != others[page])
				continue;
			append_page(same, &found, at);
			if (take)
				others[page] = 0;
		}
	}
	return found;
}
