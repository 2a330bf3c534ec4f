// Five hundred small mappings with gaps and alternating protection are all where and what they were.
#include "pattern.h"
#include <sys/mman.h>

#ifndef VMAS
#define VMAS 500
#endif
#define STRIDE (3 * PAGE)

int main(int argc, char **argv)
{
	unsigned char in_core;
	char *base;

	check_init(argc, argv);
	base = MUST(mmap(NULL, VMAS * STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (int i = 0; i < VMAS; i++) {
		pattern_fill(base + i * STRIDE, 2 * PAGE, i);
		MUST(munmap(base + i * STRIDE + 2 * PAGE, PAGE));
		if (i % 2)
			MUST(mprotect(base + i * STRIDE, PAGE, PROT_READ));
	}
	check_ready_and_wait();
	for (int i = 0; i < VMAS; i++) {
		pattern_check(base + i * STRIDE, 2 * PAGE, i);
		EQUAL(mincore(base + i * STRIDE + 2 * PAGE, PAGE, &in_core), -1);
		EQUAL(errno, ENOMEM); /* the gap is still a gap */
	}
	return check_pass();
}
