// An attached segment in an IPC namespace of its own gives way, over and over, to another one with the same index.
// tags: live
#include "pattern.h"
#include <sched.h>
#include <sys/ipc.h>
#include <sys/shm.h>

#define INDEX 0x7fff
#define PAGES 4
#define STORES 2000

static _Atomic bool stop;

/* The kernel takes one index after the other, up to 64 of them while there are few. */
static int segment_make(int index)
{
	for (;;) {
		int id = MUST(shmget(IPC_PRIVATE, PAGES * PAGE, 0600));

		if (index < 0 || (id & INDEX) == index)
			return id;
		MUST(shmctl(id, IPC_RMID, NULL));
	}
}

static void *replace(void *unused)
{
	int id = segment_make(-1);

	for (uint64_t turn = 1; !stop; turn++) {
		char *pages = MUST(shmat(id, NULL, 0));

		for (uint64_t store = 0; store < STORES && !stop; store++) {
			char *page = pages + store % PAGES * PAGE;

			if (store >= PAGES)
				pattern_check(page, PAGE, turn + store - PAGES);
			pattern_fill(page, PAGE, turn + store);
		}
		MUST(shmdt(pages));
		MUST(shmctl(id, IPC_RMID, NULL));
		id = segment_make(id & INDEX);
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	check_init(argc, argv);
	MUST(unshare(CLONE_NEWIPC));
	thread = thread_start(replace, NULL);
	check_ready_and_wait();
	stop = true;
	thread_join(thread);
	return check_pass();
}
