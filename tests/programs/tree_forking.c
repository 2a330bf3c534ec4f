// A tree that forks all the time is moved whole: every child ends as it should, before and after.
// tags: forking
#include "tree.h"

int main(int argc, char **argv)
{
	pid_t children[4];

	check_init(argc, argv);
	check_ready();
	for (int round = 0; !check_go(); round++) {
		for (int i = 0; i < 4; i++) {
			children[i] = MUST(fork());
			if (children[i] == 0) {
				nanosleep(&(struct timespec){.tv_nsec = NAP_NS / 2}, NULL);
				_exit((round + i) % 100);
			}
		}
		for (int i = 0; i < 4; i++)
			EQUAL(tree_ended(children[i]), (round + i) % 100 << 8);
	}
	return check_pass();
}
