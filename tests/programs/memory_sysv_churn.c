// Segments in an IPC namespace of its own are attached only while they are stored to: each holds what was stored last.
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

static void slot_change(struct slot *slot, uint64_t random)
{
	char *pages = MUST(shmat(slot->id, NULL, 0));

	for (int i = 0; i < PAGES; i++)
		pattern_check(pages + i * PAGE, PAGE, slot->seeds[i]);
	slot->seeds[random % PAGES] = random;
	pattern_fill(pages + random % PAGES * PAGE, PAGE, random);
	MUST(shmdt(pages));
}

static void *churn(void *unused)
{
	struct slot slots[SLOTS];

	for (uint64_t i = 0; i < SLOTS; i++) {
		char *pages;

		slots[i].id = MUST(shmget(IPC_PRIVATE, PAGES * PAGE, 0600));
		pages = MUST(shmat(slots[i].id, NULL, 0));
		for (int j = 0; j < PAGES; j++)
			pattern_fill(pages + j * PAGE, PAGE, slots[i].seeds[j] = i * PAGES + j);
		MUST(shmdt(pages));
	}
	for (uint64_t turn = 0; !stop; turn++)
		slot_change(&slots[pattern_word(turn) % SLOTS], pattern_word(~turn));
	for (int i = 0; i < SLOTS; i++)
		slot_change(&slots[i], i);
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
