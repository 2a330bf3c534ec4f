/*
 * Bulk scans of scans.c: the pages of many processes that stand still, sorted by what they are.
 */
#ifndef MG_SCANS_H
#define MG_SCANS_H

#include "memory.h"

/* Pages of which (categories & mask) == value, but for those of which (categories & but_mask) == but_value. */
struct mg_sort {
	unsigned long long mask, value, but_mask, but_value;
};

/*
 * One process. `walks` are scanned, `spans` is what counts of them: there are fewer walks, as a hole between
 * two spans costs less than another call. Both ascend. There are at most 8 sorts. Out: counts[i] spans of the i-th, in
 * order, those of the first sort at found[first], each next sort's behind; neighbours are one span. `error`: errno;
 * EFBIG: there are too many pages to tell.
 */
struct mg_process_scan {
	int pid, walk_count, span_count, error;
	const struct mg_span *walks, *spans;
	long long first;
	int counts[8];
};

/* Several threads do it, each with its part of `found`, which has room for `room` spans. */
void mg_scan_processes(struct mg_process_scan *processes, int count, const struct mg_scan *scan,
		       const struct mg_sort *sorts, int sort_count, struct mg_span *found, long long room);

#endif
