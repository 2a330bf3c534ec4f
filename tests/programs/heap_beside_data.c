// The heap of a program at a fixed address lies right behind its data and grows all the time.
// cflags: -no-pie
// tags: live
#include "pattern.h"
#include <sys/personality.h>

#define STEP (256UL << 10)
#define LIMIT (64UL << 20)

static char in_data[PAGE];
static _Atomic bool stop;
static char *heap;
static size_t size;

static void *grow(void *unused)
{
	struct timespec pause = {.tv_nsec = 5000000};

	while (!stop && size < LIMIT) {
		char *more = MUST(sbrk(STEP));

		EQUAL((long)more, (long)(heap + size));
		pattern_fill(more, STEP, size);
		size += STEP;
		nanosleep(&pause, NULL);
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	void *volatile first;

	if (!(MUST(personality(0xffffffff)) & ADDR_NO_RANDOMIZE)) {
		MUST(personality(ADDR_NO_RANDOMIZE));
		MUST(execv("/proc/self/exe", argv));
	}
	check_init(argc, argv);
	first = malloc(1); /* what malloc(3) has of the heap comes first */
	heap = MUST(sbrk(0));
	CHECK(heap - in_data < 1 << 20);
	thread = thread_start(grow, NULL);
	check_ready_and_wait();
	stop = true;
	thread_join(thread);
	for (size_t at = 0; at < size; at += STEP)
		pattern_check(heap + at, STEP, at);
	free(first);
	return check_pass();
}
