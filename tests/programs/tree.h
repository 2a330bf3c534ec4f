/* What trees share: children that prepare, wait at a gate, check themselves and end with 0. */
#ifndef TREE_H
#define TREE_H

#include "check.h"
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define TREE_NAPS 1000 /* twenty seconds */

static int tree_gate[2], tree_met[2]; /* the gate opens when the root closes its end; who is prepared says so */

static inline void tree_init(int argc, char **argv)
{
	check_init(argc, argv);
	MUST(pipe(tree_gate));
	MUST(pipe(tree_met));
}

/* Of a child: prepared. Returns when the root has opened the gate. */
static inline void tree_wait(void)
{
	char none;

	close(tree_gate[1]);
	EQUAL(write(tree_met[1], "+", 1), 1);
	EQUAL(read(tree_gate[0], &none, 1), 0);
	errno = 0;
}

/* Of the root: wait until so many children are prepared. */
static inline void tree_meet(int children)
{
	char one;

	for (int met = 0; met < children; met++) {
		struct pollfd ready = {.fd = tree_met[0], .events = POLLIN};

		EQUAL(poll(&ready, 1, JOIN_TIMEOUT_S * 1000), 1);
		EQUAL(read(tree_met[0], &one, 1), 1);
	}
}

/* Of the root: everything is prepared; returns after the move with the gate open. */
static inline void tree_ready_and_wait(int children)
{
	tree_meet(children);
	check_ready_and_wait();
	close(tree_gate[1]);
}

/* How a child ended, as wait(2) tells. A reason that it gave itself stays the result. */
static inline int tree_ended(pid_t child)
{
	int status = -1;
	pid_t found = 0;

	for (int naps = 0; naps < TREE_NAPS && found == 0; naps++) {
		found = MUST(waitpid(child, &status, WNOHANG));
		if (found == 0)
			check_nap();
	}
	if (found == 0)
		check_fail("pid %d does not end", child);
	return status;
}

static inline void tree_join(pid_t child)
{
	int status = tree_ended(child);

	if (status && access(in_dir("result"), F_OK) == 0)
		_exit(1);
	if (status)
		check_fail("pid %d ended with %#x", child, status);
}

/* Until a child has ended, without reaping it. */
static inline void tree_wait_zombie(pid_t child)
{
	siginfo_t how;

	MUST(waitid(P_PID, child, &how, WEXITED | WNOWAIT));
}

#endif
