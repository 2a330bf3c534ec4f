// Two threads rewrite 16 MiB page by page in a wild order: no store is lost and none comes back.
// tags: live
#include "pattern.h"
#include <sys/mman.h>

#define WRITERS 2
#ifndef PAGES
#define PAGES 2048UL /* for each writer: 8 MiB */
#endif

static _Atomic bool stop;
static uint32_t generations[WRITERS][PAGES];

static uint64_t seed_of(long writer, size_t page)
{
	return ((uint64_t)generations[writer][page] << 32) + (writer << 24) + page * 1024;
}

static void *write_until_stop(void *argument)
{
	long writer = (long)argument;
	char *memory = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	for (size_t page = 0; page < PAGES; page++)
		pattern_fill(memory + page * PAGE, PAGE, seed_of(writer, page));
	for (uint64_t turn = 0; !stop; turn++) {
		size_t page = pattern_word(turn) % PAGES;

		pattern_check(memory + page * PAGE, PAGE, seed_of(writer, page));
		generations[writer][page]++;
		pattern_fill(memory + page * PAGE, PAGE, seed_of(writer, page));
	}
	for (size_t page = 0; page < PAGES; page++)
		pattern_check(memory + page * PAGE, PAGE, seed_of(writer, page));
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[WRITERS];

	check_init(argc, argv);
	for (long i = 0; i < WRITERS; i++)
		threads[i] = thread_start(write_until_stop, (void *)i);
	check_ready_and_wait();
	stop = true;
	for (int i = 0; i < WRITERS; i++)
		thread_join(threads[i]);
	return check_pass();
}
