// A child that asked for a signal at its parent's end gets it when that parent ends, and not before.
#include "tree.h"

static volatile sig_atomic_t told;

static void note(int number)
{
	told = number;
}

static void wait_for_parent(void)
{
	CHECK(signal(SIGUSR2, note) != SIG_ERR);
	MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2));
	close(tree_gate[1]);
	EQUAL(write(tree_met[1], "+", 1), 1);
	check_wait();
	for (int naps = 0; naps < TREE_NAPS && !told; naps++)
		nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
	EQUAL(told, SIGUSR2);
	check_publish("told", "");
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t parent, self = getpid(), child = 0;
	int told_pid[2];

	tree_init(argc, argv);
	MUST(pipe(told_pid));
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	parent = MUST(fork());
	if (parent == 0) {
		child = MUST(fork());
		if (child == 0)
			wait_for_parent();
		EQUAL(write(told_pid[1], &child, sizeof(child)), (long)sizeof(child));
		tree_wait();
		EQUAL(getppid(), self);
		_exit(0);
	}
	EQUAL(read(told_pid[0], &child, sizeof(child)), (long)sizeof(child));
	tree_meet(2);
	check_ready_and_wait();
	for (int i = 0; i < 10; i++)
		check_nap();
	EQUAL(kill(child, 0), 0);
	CHECK(access(in_dir("told"), F_OK) < 0);
	close(tree_gate[1]);
	tree_join(parent);
	tree_join(child);
	EQUAL(access(in_dir("told"), F_OK), 0);
	return check_pass();
}
