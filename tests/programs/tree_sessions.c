// Sessions and groups come back: own, inherited, older than a parent's session, with a leader that has ended.
#include "tree.h"

static void live_as(pid_t parent, pid_t session, pid_t group)
{
	tree_wait();
	EQUAL(getppid(), parent);
	EQUAL(getsid(0), session ? session : getpid());
	EQUAL(getpgrp(), group ? group : getpid());
	_exit(0);
}

static pid_t member(pid_t session, pid_t group)
{
	pid_t parent = getpid(), child = MUST(fork());

	if (child)
		return child;
	if (group >= 0)
		MUST(setpgid(0, group));
	live_as(parent, session, group >= 0 ? group : getpgrp());
	return 0;
}

/* A session with a child from before it, one in it, and one in a group of its own. */
static void lead_session(void)
{
	pid_t parent = getppid(), older, inside, grouped;

	older = member(getsid(0), -1);
	MUST(setsid());
	inside = member(getpid(), -1);
	grouped = member(getpid(), 0);
	tree_wait();
	EQUAL(getppid(), parent);
	EQUAL(getsid(0), getpid());
	EQUAL(getpgrp(), getpid());
	tree_join(older);
	tree_join(inside);
	tree_join(grouped);
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t leader, children[5], session;

	tree_init(argc, argv);
	session = getsid(0);
	leader = MUST(fork());
	if (leader == 0)
		pause();
	MUST(setpgid(leader, leader));
	children[0] = member(session, leader);
	children[1] = member(session, leader);
	children[2] = member(session, 0);
	children[3] = member(session, -1);
	tree_meet(4);
	MUST(kill(leader, SIGKILL));
	EQUAL(tree_ended(leader), SIGKILL);
	children[4] = MUST(fork());
	if (children[4] == 0)
		lead_session();
	tree_ready_and_wait(4);
	for (int i = 0; i < 5; i++)
		tree_join(children[i]);
	return check_pass();
}
