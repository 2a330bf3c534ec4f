// Mappings of private huge pages come, shrink, are given back and stored to all the time, and always hold what was stored.
// tags: live
// requires: huge-pages
#include "pattern.h"
#include <sys/mman.h>

#define HUGE (2UL << 20)
#define SLOTS 6

struct slot {
	char *start;
	size_t size_bytes;
	uint64_t seed;
};

static _Atomic bool stop;

/* A little at the beginning of each huge page, a little in its middle. */
static void slot_fill(struct slot *slot, uint64_t seed)
{
	slot->seed = seed;
	for (size_t at = 0; at < slot->size_bytes; at += HUGE / 2)
		pattern_fill(slot->start + at, PAGE, seed + at);
}

static void slot_check(struct slot *slot)
{
	for (size_t at = 0; at < slot->size_bytes; at += HUGE / 2) {
		pattern_check(slot->start + at, PAGE, slot->seed + at);
		EQUAL(slot->start[at + 2 * PAGE], 0);
	}
}

static void slot_map(struct slot *slot, uint64_t random)
{
	slot->size_bytes = (random % 3 + 1) * HUGE;
	slot->start = MUST(mmap(NULL, slot->size_bytes, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
	slot_fill(slot, random);
}

static void slot_change(struct slot *slot, uint64_t random)
{
	slot_check(slot);
	switch (random / 8 % 4) {
	case 0: /* new contents */
		slot_fill(slot, random);
		break;
	case 1: /* given back, then filled again */
		MUST(madvise(slot->start, slot->size_bytes, MADV_DONTNEED));
		EQUAL(slot->start[0], 0);
		slot_fill(slot, random);
		break;
	case 2: /* gone, and another one, maybe at the same place */
		MUST(munmap(slot->start, slot->size_bytes));
		slot_map(slot, random);
		break;
	case 3: /* shrunk from the end */
		if (slot->size_bytes == HUGE)
			break;
		slot->size_bytes -= HUGE;
		MUST(munmap(slot->start + slot->size_bytes, HUGE));
		break;
	}
}

static void *churn(void *unused)
{
	struct slot slots[SLOTS];

	for (uint64_t i = 0; i < SLOTS; i++)
		slot_map(&slots[i], pattern_word(i));
	for (uint64_t turn = SLOTS; !stop; turn++) {
		slot_change(&slots[pattern_word(turn) % SLOTS], pattern_word(~turn));
		nanosleep(&(struct timespec){0, 2000000}, NULL);
	}
	for (int i = 0; i < SLOTS; i++)
		slot_check(&slots[i]);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	check_init(argc, argv);
	thread = thread_start(churn, NULL);
	check_ready_and_wait();
	stop = true;
	thread_join(thread);
	return check_pass();
}
