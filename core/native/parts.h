/* What parts.c offers to the other sources: work of one call shared among threads. */
#ifndef MG_PARTS_H
#define MG_PARTS_H

#include <stddef.h>

#define MG_MOST_PARTS 8

/* Into how many parts of at least `few` things work on `count` of them is cut: one for each processor that we may use,
 * MG_MOST_PARTS at most, one at least. */
int mg_count_parts(int count, int few);

/* Where the part of that index ends of `count` things that are cut into `many`: the next one begins there. */
int mg_part_end(int count, int many, int index);

/* Runs `work` on each of the `count` parts, of `size` bytes each: the first here, the others in threads of their own,
 * or here too where none can be made. Returns when all is done. */
void mg_run_parts(void *(*work)(void *), void *parts, size_t size, int count);

#endif
