// A server that loaded its memory before it forked: every child still has it, with what it wrote itself.
// args: 4 8
#include "pattern.h"
#include "tree.h"
#include <sys/mman.h>

static char *memory;
static size_t size;

static void live(unsigned long number)
{
	pattern_fill(memory + number * PAGE, PAGE, number);
	tree_wait();
	pattern_check(memory, number * PAGE, 7);
	pattern_check(memory + number * PAGE, PAGE, number);
	pattern_check(memory + (number + 1) * PAGE, size - (number + 1) * PAGE, 7 + (number + 1) * PAGE / 8);
	_exit(0);
}

int main(int argc, char **argv)
{
	unsigned long children;

	tree_init(argc, argv);
	CHECK(argc == 4);
	size = strtoul(argv[2], NULL, 10) << 20;
	children = strtoul(argv[3], NULL, 10);
	memory = MUST(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	pattern_fill(memory, size, 7);
	for (unsigned long number = 1; number <= children; number++)
		if (MUST(fork()) == 0)
			live(number);
	pattern_fill(memory, PAGE, 3);
	tree_ready_and_wait(children);
	for (unsigned long left = children; left > 0; left--)
		tree_join(-1);
	pattern_check(memory, PAGE, 3);
	pattern_check(memory + PAGE, size - PAGE, 7 + PAGE / 8);
	return check_pass();
}
