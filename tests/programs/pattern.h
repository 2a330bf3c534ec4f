/* Incompressible memory contents that can be computed again from a seed. */
#ifndef PATTERN_H
#define PATTERN_H

#include "check.h"

#define PAGE 4096UL

static inline uint64_t pattern_word(uint64_t seed)
{
	seed += 0x9e3779b97f4a7c15;
	seed = (seed ^ (seed >> 30)) * 0xbf58476d1ce4e5b9;
	seed = (seed ^ (seed >> 27)) * 0x94d049bb133111eb;
	return seed ^ (seed >> 31);
}

static inline void pattern_fill(void *start, size_t size_bytes, uint64_t seed)
{
	uint64_t *words = start;

	for (size_t i = 0; i < size_bytes / sizeof(*words); i++)
		words[i] = pattern_word(seed + i);
}

static inline void pattern_check(const void *start, size_t size_bytes, uint64_t seed)
{
	const uint64_t *words = start;

	for (size_t i = 0; i < size_bytes / sizeof(*words); i++)
		if (words[i] != pattern_word(seed + i))
			check_fail("memory at %p (word %zu of seed %#lx) is %#lx, not %#lx", (const void *)&words[i], i,
				   seed, words[i], pattern_word(seed + i));
}

#endif
