// In a sparse 1 GiB region touched pages keep their contents, and holes stay holes that read as zero.
#include "pattern.h"
#include <sys/mman.h>

#define SIZE (1UL << 30)
#define STEP (97 * PAGE)
#define SLACK_PAGES 16

static size_t resident_pages(void *memory)
{
	static unsigned char in_core[SIZE / PAGE];
	size_t pages = 0;

	MUST(mincore(memory, SIZE, in_core));
	for (size_t i = 0; i < SIZE / PAGE; i++)
		pages += in_core[i] & 1;
	return pages;
}

int main(int argc, char **argv)
{
	const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	size_t before, after;
	char *memory;

	check_init(argc, argv);
	memory = MUST(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, kind, -1, 0));
	MUST(madvise(memory, SIZE, MADV_NOHUGEPAGE));
	for (size_t at = 0; at + PAGE <= SIZE; at += STEP)
		pattern_fill(memory + at, PAGE, at);
	MUST(madvise(memory, STEP, MADV_DONTNEED)); /* a page given back is a hole again */
	before = resident_pages(memory);
	check_ready_and_wait();
	after = resident_pages(memory);
	if (after > before + SLACK_PAGES)
		check_fail("%zu pages resident, were %zu", after, before);
	for (size_t at = STEP; at + PAGE <= SIZE; at += STEP)
		pattern_check(memory + at, PAGE, at);
	for (size_t at = 0; at + 2 * PAGE <= SIZE; at += STEP)
		EQUAL(*(long *)(memory + at + PAGE), 0);
	EQUAL(*(long *)memory, 0);
	return check_pass();
}
