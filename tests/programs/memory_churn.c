// Mappings come, shrink, change protection and go all the time; what is mapped always holds what was stored.
// tags: live
#include "pattern.h"
#include <sys/mman.h>

#define SLOTS 32

struct slot {
	char *start;
	size_t size_bytes;
	uint64_t seed;
};

static _Atomic bool stop;

static void slot_map(struct slot *slot, uint64_t random)
{
	slot->seed = random;
	slot->size_bytes = (random % 16 + 2) * PAGE;
	slot->start = MUST(mmap(NULL, slot->size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	pattern_fill(slot->start, slot->size_bytes, slot->seed);
}

static void slot_change(struct slot *slot, uint64_t random)
{
	pattern_check(slot->start, slot->size_bytes, slot->seed);
	switch (random % 4) {
	case 0: /* new contents */
		pattern_fill(slot->start, slot->size_bytes, slot->seed = random);
		break;
	case 1: /* given back, then filled again behind a protection */
		MUST(madvise(slot->start, slot->size_bytes, MADV_DONTNEED));
		EQUAL(*(long *)slot->start, 0);
		pattern_fill(slot->start, slot->size_bytes, slot->seed);
		MUST(mprotect(slot->start, slot->size_bytes, PROT_READ));
		pattern_check(slot->start, slot->size_bytes, slot->seed);
		MUST(mprotect(slot->start, slot->size_bytes, PROT_READ | PROT_WRITE));
		break;
	case 2: /* gone, and another one elsewhere */
		MUST(munmap(slot->start, slot->size_bytes));
		slot_map(slot, random);
		break;
	case 3: /* shrunk from the end */
		if (slot->size_bytes == PAGE)
			break;
		slot->size_bytes -= PAGE;
		MUST(munmap(slot->start + slot->size_bytes, PAGE));
		break;
	}
}

static void *churn(void *unused)
{
	struct slot slots[SLOTS];

	for (uint64_t i = 0; i < SLOTS; i++)
		slot_map(&slots[i], pattern_word(i));
	for (uint64_t turn = SLOTS; !stop; turn++)
		slot_change(&slots[pattern_word(turn) % SLOTS], pattern_word(~turn));
	for (int i = 0; i < SLOTS; i++)
		pattern_check(slots[i].start, slots[i].size_bytes, slots[i].seed);
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
