// SPDX-License-Identifier: Apache-2.0
// Scans the pages of many processes in one call, by several threads: no policy here.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "abi.h"
#include "memory.h"
#include "parts.h"
#include "scans.h"

#define FEW 8		   /* processes for which another thread does not pay */
#define MOST_REGIONS 16384 /* of one process */

struct part {
	struct mg_process_scan *processes;
	int count, sort_count;
	const struct mg_scan *scan;
	const struct mg_sort *sorts;
	struct mg_span *found;
	long long used, end;
	struct mg_page_region *regions; /* room for MOST_REGIONS */
};

static int append(struct part *part, int *count, struct mg_span span)
{
	if (*count && part->found[part->used - 1].end == span.start) {
		part->found[part->used - 1].end = span.end;
		return 0;
	}
	if (part->used == part->end)
		return EFBIG;
	part->found[part->used++] = span;
	++*count;
	return 0;
}

static int belongs(const struct mg_sort *sort, unsigned long long categories)
{
	return (categories & sort->mask) == sort->value && (categories & sort->but_mask) != sort->but_value;
}

/* What lies within the spans of those regions that belong there. */
static int sort_regions(struct part *part, const struct mg_process_scan *one, const struct mg_sort *sort, int regions,
			int *count)
{
	int first = 0, error = 0;

	*count = 0;
	for (int i = 0; i < regions; i++) {
		const struct mg_page_region *region = &part->regions[i];

		if (!belongs(sort, region->categories))
			continue;
		while (first < one->span_count && one->spans[first].end <= region->start)
			first++;
		for (int j = first; j < one->span_count && one->spans[j].start < region->end && !error; j++) {
			struct mg_span span = one->spans[j];

			span.start = span.start > region->start ? span.start : region->start;
			span.end = span.end < region->end ? span.end : region->end;
			error = append(part, count, span);
		}
	}
	return error;
}

static int scan_walks(struct part *part, const struct mg_process_scan *one)
{
	struct mg_scan_position position = {0, one->walk_count ? one->walks[0].start : 0};
	char path[32];
	int fd, found;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", one->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	found = mg_pagemap_scan(fd, one->walks, one->walk_count, part->scan, part->regions, MOST_REGIONS, &position);
	close(fd);
	return found >= 0 && position.span < one->walk_count ? -EFBIG : found;
}

static void scan_process(struct part *part, struct mg_process_scan *one)
{
	int regions = scan_walks(part, one);

	one->first = part->used;
	one->error = regions < 0 ? -regions : 0;
	for (int i = 0; i < part->sort_count && !one->error; i++)
		one->error = sort_regions(part, one, &part->sorts[i], regions, &one->counts[i]);
	if (one->error)
		part->used = one->first;
}

static void *scan_part(void *argument)
{
	struct part *part = argument;

	part->regions = malloc(MOST_REGIONS * sizeof(*part->regions));
	for (int i = 0; i < part->count; i++) {
		if (part->regions)
			scan_process(part, &part->processes[i]);
		else
			part->processes[i].error = ENOMEM;
	}
	free(part->regions);
	return NULL;
}

void mg_scan_processes(struct mg_process_scan *processes, int count, const struct mg_scan *scan,
		       const struct mg_sort *sorts, int sort_count, struct mg_span *found, long long room)
{
	struct part parts[MG_MOST_PARTS];
	int many = mg_count_parts(count, FEW), done = 0;

	for (int i = 0; i < many; i++) {
		int end = mg_part_end(count, many, i);

		parts[i] = (struct part){processes + done, end - done,		 sort_count, scan, sorts, found,
					 room / many * i,  room / many * (i + 1)};
		done = end;
	}
	mg_run_parts(scan_part, parts, sizeof(parts[0]), many);
}
