/*
 * Bulk functions of sharing.c: which pages several address spaces have in
 * common. A key stands for a page's content (its frame, or a checksum); 0: none.
 * Keys of spans are back to back, one per page.
 */
#ifndef MG_SHARING_H
#define MG_SHARING_H

#include "memory.h"

/*
 * The frame of every page of the spans by /proc/PID/pagemap: 0 where there is
 * none, for pages of files and the two zero pages, and where frames are hidden
 * from us. Returns 0.
 */
int mg_read_frames(int pagemap_fd, const struct mg_span *spans, int count, unsigned long long zero_pfn,
		   unsigned long long huge_zero_pfn, unsigned long long *frames);

/* One voter's keys in the search for the most frequent key of each page (Boyer and Moore). */
void mg_vote(const unsigned long long *keys, long pages, unsigned long long *elected, unsigned int *votes);

/* Count how many voters have the elected key. */
void mg_count_votes(const unsigned long long *keys, long pages, const unsigned long long *elected, unsigned int *votes);

/* Forget what fewer than two voters have: its elected key becomes 0. */
void mg_drop_single(unsigned long long *elected, long pages, const unsigned int *votes);

/*
 * The spans of pages with the same key in both, which is not 0; room for one
 * span per page in same[]. take: those of `others` become 0. Returns how many.
 */
int mg_same_keys(const struct mg_span *spans, int count, const unsigned long long *keys, unsigned long long *others,
		 int take, struct mg_span *same);

#endif
