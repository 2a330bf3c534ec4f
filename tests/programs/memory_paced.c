// Rewrites 16 MiB in a wild order at a pace of its own, 8 pages every 20 ms: no store is lost and none comes back.
// tags: live
#include "pattern.h"
#include <sys/mman.h>

#define PAGES 4096UL
#define BATCH 8

static uint32_t generations[PAGES];

static uint64_t seed_of(size_t page)
{
	return ((uint64_t)generations[page] << 32) + page * 1024;
}

int main(int argc, char **argv)
{
	const struct timespec pause = {.tv_nsec = NAP_NS};
	uint64_t turn = 0;
	char *memory;

	check_init(argc, argv);
	memory = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (size_t page = 0; page < PAGES; page++)
		pattern_fill(memory + page * PAGE, PAGE, seed_of(page));
	check_ready();
	for (int naps = 0; !check_go(); naps++) {
		if (naps >= PATIENCE_NAPS)
			check_fail("no go came");
		for (int i = 0; i < BATCH; i++, turn++) {
			size_t page = pattern_word(turn) % PAGES;

			pattern_check(memory + page * PAGE, PAGE, seed_of(page));
			generations[page]++;
			pattern_fill(memory + page * PAGE, PAGE, seed_of(page));
		}
		nanosleep(&pause, NULL); /* may be cut short: criu's pre-dump does that, beside which it is measured */
	}
	for (size_t page = 0; page < PAGES; page++)
		pattern_check(memory + page * PAGE, PAGE, seed_of(page));
	return check_pass();
}
