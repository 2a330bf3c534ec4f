// A process that is in vfork(2) nearly all the time is moved: each child executes and ends as it should.
// tags: forking
#include "tree.h"

int main(int argc, char **argv)
{
	check_init(argc, argv);
	check_ready();
	for (int round = 0; !check_go(); round++) {
		pid_t child = vfork();

		if (child == 0) {
			nanosleep(&(struct timespec){.tv_nsec = 3 * NAP_NS / 2}, NULL);
			execl("/bin/sh", "sh", "-c", "exit 5", NULL);
			_exit(127);
		}
		CHECK(child > 0);
		EQUAL(tree_ended(child), 5 << 8);
	}
	return check_pass();
}
