// Four generations pass a word down from pipe to pipe and up again, with what was on its way when they moved.
#include "tree.h"

#define DEPTH 4

static void expect_byte(int fd, char wanted)
{
	char got;

	EQUAL(read(fd, &got, 1), 1);
	EQUAL(got, wanted);
}

/* Reads what is above, adds one, hands it below; what comes from below goes up with one more added. */
static void live_at(int depth, pid_t parent, pid_t child, const int above[2], const int below[2])
{
	pid_t self = getpid();

	tree_wait();
	EQUAL(getppid(), parent);
	EQUAL(getpid(), self);
	expect_byte(above[0], 'q');
	expect_byte(above[0], 'a' + depth);
	if (child) {
		EQUAL(write(below[1], &(char){'a' + depth + 1}, 1), 1);
		expect_byte(below[0], 'z' - depth - 1);
		tree_join(child);
	}
	EQUAL(write(above[1], &(char){'z' - depth}, 1), 1);
	_exit(0);
}

/* A child with a pipe down to it and one up from it; 0 in the child, whose `above` they are. */
static pid_t descend(int above[2], int below[2])
{
	int down[2], up[2];
	pid_t child;

	MUST(pipe(down));
	MUST(pipe(up));
	EQUAL(write(down[1], "q", 1), 1);
	child = MUST(fork());
	above[0] = child ? above[0] : down[0];
	above[1] = child ? above[1] : up[1];
	below[0] = up[0];
	below[1] = down[1];
	return child;
}

int main(int argc, char **argv)
{
	int above[2], below[2], depth = 0;
	pid_t child, parent = 0, self;

	tree_init(argc, argv);
	self = getpid();
	while ((child = descend(above, below)) == 0) {
		parent = self;
		self = getpid();
		if (++depth == DEPTH)
			live_at(depth, parent, 0, above, below);
	}
	if (depth)
		live_at(depth, parent, child, above, below);
	tree_ready_and_wait(DEPTH);
	EQUAL(write(below[1], "b", 1), 1);
	expect_byte(below[0], 'y');
	tree_join(child);
	return check_pass();
}
