// Orphans stay with the subreaper that adopted them, in a session whose leader has ended and in one whose leader lives.
#include "tree.h"

static int told[2];

/* Forked twice; who is between ends, so that the subreaper is its parent. */
static void leave_orphan(pid_t reaper)
{
	pid_t middle = MUST(fork()), self, session = getsid(0);

	if (middle) {
		EQUAL(tree_ended(middle), 0);
		return;
	}
	if (MUST(fork()))
		_exit(0);
	while (getppid() != reaper)
		check_nap();
	self = getpid();
	EQUAL(write(told[1], &self, sizeof(self)), (long)sizeof(self));
	tree_wait();
	EQUAL(getppid(), reaper);
	EQUAL(getpid(), self);
	EQUAL(getsid(0), session);
	EQUAL(getpgrp(), session);
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t ended, alive, reaper = getpid(), orphans[2];
	int adopts = 0;

	tree_init(argc, argv);
	MUST(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0));
	MUST(pipe(told));
	ended = MUST(fork());
	if (ended == 0) {
		MUST(setsid());
		leave_orphan(reaper);
		_exit(0);
	}
	EQUAL(tree_ended(ended), 0);
	alive = MUST(fork());
	if (alive == 0) {
		MUST(setsid());
		leave_orphan(reaper);
		tree_wait();
		EQUAL(getsid(0), getpid());
		_exit(0);
	}
	EQUAL(read(told[0], orphans, sizeof(orphans[0])), (long)sizeof(orphans[0]));
	EQUAL(read(told[0], orphans + 1, sizeof(orphans[0])), (long)sizeof(orphans[0]));
	tree_ready_and_wait(3);
	MUST(prctl(PR_GET_CHILD_SUBREAPER, &adopts, 0, 0, 0));
	EQUAL(adopts, 1);
	tree_join(orphans[0]);
	tree_join(orphans[1]);
	tree_join(alive);
	return check_pass();
}
