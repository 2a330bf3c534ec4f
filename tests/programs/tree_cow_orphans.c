// Orphans keep what they inherited of a parent that has ended; whom they are left to never had it.
#include "pattern.h"
#include "tree.h"
#include <sys/mman.h>

#define ORPHANS 3
#define SIZE (1024 * PAGE)

static void live(pid_t reaper, unsigned long number, char *memory)
{
	pattern_fill(memory + number * PAGE, PAGE, number);
	while (getppid() != reaper)
		check_nap();
	tree_wait();
	pattern_check(memory, number * PAGE, 42);
	pattern_check(memory + number * PAGE, PAGE, number);
	pattern_check(memory + (number + 1) * PAGE, SIZE - (number + 1) * PAGE, 42 + (number + 1) * PAGE / 8);
	pattern_fill(memory, SIZE, number);
	pattern_check(memory, SIZE, number);
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t reaper = getpid(), middle;

	tree_init(argc, argv);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	middle = MUST(fork());
	if (middle == 0) {
		char *memory = MUST(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

		pattern_fill(memory, SIZE, 42);
		for (unsigned long number = 1; number <= ORPHANS; number++)
			if (MUST(fork()) == 0)
				live(reaper, number, memory);
		_exit(0);
	}
	EQUAL(tree_ended(middle), 0);
	tree_ready_and_wait(ORPHANS);
	for (int left = ORPHANS; left > 0; left--)
		tree_join(-1);
	return check_pass();
}
