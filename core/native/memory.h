/*
 * Bulk memory functions of memory.c. Every function returns >= 0, or -errno.
 * Page categories are those of PAGEMAP_SCAN; mg_pagemap_parse uses the same.
 */
#ifndef MG_MEMORY_H
#define MG_MEMORY_H

#define MG_PAGE_WPALLOWED 0x1
#define MG_PAGE_WRITTEN 0x2
#define MG_PAGE_FILE 0x4
#define MG_PAGE_PRESENT 0x8
#define MG_PAGE_SWAPPED 0x10
#define MG_PAGE_PFNZERO 0x20
#define MG_PAGE_HUGE 0x40
#define MG_PAGE_SOFT_DIRTY 0x80
#define MG_PAGE_GUARD 0x100

#define MG_SCAN_WP_MATCHING 0x1
#define MG_SCAN_CHECK_WPASYNC 0x2

#define MG_NO_PFN 0xffffffffffffffff
#define MG_HASH_KEY_WORDS 1026

struct mg_span {
	unsigned long long start;
	unsigned long long end;
};

/* One VMA to track. force: REGISTER though it looks registered already. */
struct mg_tracked_vma {
	unsigned long long start;
	unsigned long long end;
	int force; /* afterwards: it had to be registered */
	int error; /* 0, or -errno of PAGEMAP_SCAN, REGISTER or WRITEPROTECT; -EAGAIN: was mapped anew meanwhile */
};

/* What to look for: the masks of PAGEMAP_SCAN. */
struct mg_scan {
	unsigned long long flags;
	unsigned long long category_inverted;
	unsigned long long category_mask;
	unsigned long long category_anyof_mask;
	unsigned long long return_mask;
};

/* Where a scan stopped because the regions were full: go on from there. */
struct mg_scan_position {
	int span;
	unsigned long long address;
};

/*
 * Scan every span, in order, from *position on. Returns the number of regions
 * filled in; position->span == count when all is done. A span that has no
 * mapping any more gives nothing. Spans never share a region.
 */
int mg_pagemap_scan(int pagemap_fd, const struct mg_span *spans, int count, const struct mg_scan *scan,
		    struct mg_page_region *regions, int capacity, struct mg_scan_position *position);

/* The same from /proc/PID/pagemap's entries, for kernels without PAGEMAP_SCAN. */
int mg_pagemap_read(int pagemap_fd, const struct mg_span *spans, int count, unsigned long long zero_pfn,
		    unsigned long long huge_zero_pfn, struct mg_page_region *regions, int capacity,
		    struct mg_scan_position *position);

/* Entries of consecutive pages from `address` on, to regions; *used: entries consumed. Pure. */
int mg_pagemap_parse(const unsigned long long *entries, int count, unsigned long long address,
		     unsigned long long zero_pfn, unsigned long long huge_zero_pfn, struct mg_page_region *regions,
		     int capacity, int *used);

/*
 * Make every VMA write-protect tracked by `uffd`: the ones that are not (or
 * are forced) are registered and all their bits cleared, so that every page
 * there counts as written. Returns how many were registered; errors stand in
 * the VMAs.
 */
int mg_uffd_track(int pagemap_fd, int uffd, struct mg_tracked_vma *vmas, int count);

/*
 * Copy the spans of process `pid`, back to back, into buffer: process_vm_readv,
 * and /proc/PID/mem for what that refuses (PROT_NONE), or with pid 0 for all:
 * process_vm_readv pins, and pinning a page that is shared since a fork makes
 * the process a copy of its own, Linux commit a7f226604170 ("mm/gup: trigger
 * FAULT_FLAG_UNSHARE when R/O-pinning a possibly shared anonymous page") (in
 * v5.19). Pages that cannot be
 * read are left out and named in missing[] (room for one span per page).
 * Returns the bytes read; -ESRCH: the process is gone.
 */
long mg_read_spans(int pid, int mem_fd, const struct mg_span *spans, int count, unsigned char *buffer,
		   struct mg_span *missing, int *missing_count);

/*
 * Write buffer's bytes, back to back, to the spans of /proc/PID/mem. Returns
 * the bytes written: fewer than asked means *error (an errno) at that offset.
 */
long mg_write_spans(int mem_fd, const struct mg_span *spans, int count, const unsigned char *buffer, int *error);

/* The same, writing zeros. */
long mg_zero_spans(int mem_fd, const struct mg_span *spans, int count, int *error);

/*
 * Take the all-zero pages out of buffer (moving the others together). The
 * spans of what stays go to kept[], of the others to zero[] (room for one
 * span per page each). Returns the bytes kept.
 */
long mg_drop_zero_pages(unsigned char *buffer, const struct mg_span *spans, int count, struct mg_span *kept,
			int *kept_count, struct mg_span *zero, int *zero_count);

/* CRC-32C (Castagnoli) of the bytes, continuing from `crc` (0 to begin). */
unsigned int mg_crc32c(unsigned int crc, const unsigned char *bytes, unsigned long long size);

/*
 * A hash of each of the pages in buffer. Two different pages have the same one
 * with a probability of 2^-64, whatever they hold, as long as nobody who
 * stores to them knows the random `key` (multilinear hashing: Lemire and Kaser,
 * "Strongly universal string hashing is fast"). Never 0.
 */
void mg_hash_pages(const unsigned char *buffer, long pages, const unsigned long long *key, unsigned long long *hashes);

#endif
