// A child that executes itself over and over is moved, whichever of its programs it is at that moment.
#include "tree.h"

int main(int argc, char **argv)
{
	char count[16];
	pid_t child;

	check_init(argc, argv);
	if (argc > 2) {
		if (check_go())
			return 9;
		check_nap();
		snprintf(count, sizeof(count), "%d", atoi(argv[2]) + 1);
		execl(argv[0], argv[0], argv[1], count, NULL);
		check_fail("cannot execute %s: %m", argv[0]);
	}
	child = MUST(fork());
	if (child == 0) {
		execl(argv[0], argv[0], argv[1], "1", NULL);
		check_fail("cannot execute %s: %m", argv[0]);
	}
	check_ready_and_wait();
	EQUAL(tree_ended(child), 9 << 8);
	return check_pass();
}
