// SPDX-License-Identifier: Apache-2.0
// Shares the work of one call among threads.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>

#include "parts.h"

int mg_count_parts(int count, int few)
{
	cpu_set_t allowed;
	int parts = sched_getaffinity(0, sizeof(allowed), &allowed) ? 1 : CPU_COUNT(&allowed);

	if (parts > count / few)
		parts = count / few;
	if (parts > MG_MOST_PARTS)
		parts = MG_MOST_PARTS;
	return parts < 1 ? 1 : parts;
}

int mg_part_end(int count, int many, int index)
{
	return (long long)count * (index + 1) / many;
}

void mg_run_parts(void *(*work)(void *), void *parts, size_t size, int count)
{
	pthread_t threads[MG_MOST_PARTS];
	int is_apart[MG_MOST_PARTS] = {0};

	for (int i = 1; i < count; i++)
		is_apart[i] = !pthread_create(&threads[i], NULL, work, (char *)parts + i * size);
	for (int i = 0; i < count; i++)
		if (!is_apart[i])
			work((char *)parts + i * size);
	for (int i = 1; i < count; i++)
		if (is_apart[i])
			pthread_join(threads[i], NULL);
}
