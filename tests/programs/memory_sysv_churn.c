// Segments in an IPC namespace of its own come and go and are attached only while they are stored to.
// tags: live
#include "pattern.h"
#include <sched.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#define SLOTS 4
#define PAGES 6

static _Atomic bool stop;

struct slot {
	int id;
	uint64_t seeds[PAGES];
};

/* One that nobody has stored to yet. */
static void slot_make(struct slot *slot)
{
	slot->id = MUST(shmget(IPC_PRIVATE, PAGES * PAGE, 0600));
	memset(slot->seeds, 0, sizeof(slot->seeds));
}

static void page_check(const char *page, uint64_t seed)
{
	static const char nothing[PAGE];

	if (seed)
		pattern_check(page, PAGE, seed);
	else
		CHECK(!memcmp(page, nothing, PAGE));
}

static void slot_change(struct slot *slot, uint64_t random)
{
	char *pages;

	if (random % 16 == 0) {
		MUST(shmctl(slot->id, IPC_RMID, NULL));
		slot_make(slot);
		return;
	}
	pages = MUST(shmat(slot->id, NULL, 0));
	for (int i = 0; i < PAGES; i++)
		page_check(pages + i * PAGE, slot->seeds[i]);
	slot->seeds[random % PAGES] = random;
	pattern_fill(pages + random % PAGES * PAGE, PAGE, random);
	MUST(shmdt(pages));
}

static void *churn(void *unused)
{
	struct slot slots[SLOTS];

	for (int i = 0; i < SLOTS; i++)
		slot_make(&slots[i]);
	for (uint64_t turn = 0; !stop; turn++)
		slot_change(&slots[pattern_word(turn) % SLOTS], pattern_word(~turn));
	for (int i = 0; i < SLOTS; i++)
		slot_change(&slots[i], i + 1);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	check_init(argc, argv);
	MUST(unshare(CLONE_NEWIPC));
	thread = thread_start(churn, NULL);
	check_ready_and_wait();
	stop = true;
	thread_join(thread);
	return check_pass();
}
