// A child of vfork(2) that takes its time keeps its parent where it is, and ends as it should.
// later: vfork
#include "tree.h"

int main(int argc, char **argv)
{
	pid_t child;

	check_init(argc, argv);
	check_ready();
	child = vfork();
	if (child == 0) {
		check_wait();
		_exit(3);
	}
	CHECK(child > 0);
	EQUAL(tree_ended(child), 3 << 8);
	return check_pass();
}
