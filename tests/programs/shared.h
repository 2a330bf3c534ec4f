/* Shared memory that a child keeps writing, page by page, while the tree moves. */
#ifndef SHARED_H
#define SHARED_H

#include "pattern.h"
#include "tree.h"
#include <sys/mman.h>
#include <sys/stat.h>

#define SHARED_PAGES 64

struct shared_control {
	volatile int stop;
	volatile long rounds; /* stores of the writer */
	volatile long seen;   /* what the parent tells the child */
};

/* Every page holds its number and how often it was written. */
static inline void shared_store(void *page, long number, long times)
{
	long words[2] = {number, times};

	memcpy((char *)page + (number * 8) % (PAGE - sizeof(words)), words, sizeof(words));
}

static inline void shared_check(const void *page, long number, long times)
{
	long words[2];

	memcpy(words, (const char *)page + (number * 8) % (PAGE - sizeof(words)), sizeof(words));
	EQUAL(words[0], number);
	EQUAL(words[1], times);
}

/* Of the child: prepared, then stores in a wild order until it is told to stop; none of them is lost. */
static inline void shared_write(struct shared_control *control, char *pages)
{
	long times[SHARED_PAGES] = {0}, round = 0;

	close(tree_gate[1]);
	EQUAL(write(tree_met[1], "+", 1), 1);
	while (!control->stop) {
		long page = (long)(pattern_word(round) % SHARED_PAGES);

		shared_store(pages + page * PAGE, page, ++times[page]);
		control->rounds = ++round;
	}
	for (long page = 0; page < SHARED_PAGES; page++)
		if (times[page])
			shared_check(pages + page * PAGE, page, times[page]);
}

/* Of the root: over to the other side and back to work; the child's stores are still seen here. */
static inline void shared_move(struct shared_control *control)
{
	long rounds;

	tree_ready_and_wait(1);
	rounds = control->rounds;
	for (int naps = 0; control->rounds == rounds && naps < TREE_NAPS; naps++)
		check_nap();
	CHECK(control->rounds > rounds);
}

/* The lines of /proc/self/maps that name this. */
static inline int shared_mappings(const char *name)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[4096];
	int found = 0;

	CHECK(maps);
	while (fgets(line, sizeof(line), maps))
		found += strstr(line, name) != NULL;
	fclose(maps);
	errno = 0;
	return found;
}

#endif
