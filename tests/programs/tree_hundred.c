// A hundred children each find their own memory and what they share copy on write with their parent.
#include "tree.h"
#include "pattern.h"

#define CHILDREN 100
#define SIZE (64 * 1024)

static uint64_t common[SIZE / 8], own[SIZE / 8];

int main(int argc, char **argv)
{
	pid_t children[CHILDREN];

	tree_init(argc, argv);
	pattern_fill(common, SIZE, 1000);
	for (int i = 0; i < CHILDREN; i++) {
		children[i] = MUST(fork());
		if (children[i])
			continue;
		pattern_fill(own, SIZE, i);
		tree_wait();
		pattern_check(own, SIZE, i);
		pattern_check(common, SIZE, 1000);
		_exit(0);
	}
	tree_ready_and_wait(CHILDREN);
	for (int i = 0; i < CHILDREN; i++)
		tree_join(children[i]);
	pattern_check(common, SIZE, 1000);
	return check_pass();
}
