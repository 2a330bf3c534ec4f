// Two hundred children, some below others, each find their PID, parent, name, umask, signal mask and memory.
// args: 10 19
#include "tree.h"
#include "pattern.h"
#include <sys/stat.h>

#define SIZE (8 * 1024)

static uint64_t own[SIZE / 8];

static void live(int number)
{
	pid_t pid = getpid(), parent = getppid();
	sigset_t mask, found;
	char name[16], expected[24];

	snprintf(expected, sizeof(expected), "crowd-%d", number);
	MUST(prctl(PR_SET_NAME, expected));
	umask(number % 512);
	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + number % 20);
	MUST(sigprocmask(SIG_BLOCK, &mask, NULL));
	pattern_fill(own, SIZE, number);
	tree_wait();
	EQUAL(getpid(), pid);
	EQUAL(getppid(), parent);
	MUST(prctl(PR_GET_NAME, name));
	CHECK(!strcmp(name, expected));
	EQUAL(umask(0), number % 512);
	MUST(sigprocmask(SIG_BLOCK, NULL, &found));
	for (int signal = SIGRTMIN; signal < SIGRTMIN + 20; signal++)
		EQUAL(sigismember(&found, signal), sigismember(&mask, signal));
	pattern_check(own, SIZE, number);
}

static void grow(int branch, int count)
{
	pid_t leaves[count];

	for (int i = 0; i < count; i++) {
		leaves[i] = MUST(fork());
		if (leaves[i])
			continue;
		live(branch * (count + 1) + i + 1);
		_exit(0);
	}
	live(branch * (count + 1));
	for (int i = 0; i < count; i++)
		tree_join(leaves[i]);
	_exit(0);
}

int main(int argc, char **argv)
{
	tree_init(argc, argv);
	CHECK(argc == 4);
	int count = atoi(argv[2]), leaves = atoi(argv[3]);
	pid_t branches[count];

	for (int i = 0; i < count; i++) {
		branches[i] = MUST(fork());
		if (!branches[i])
			grow(i, leaves);
	}
	tree_ready_and_wait(count * (leaves + 1));
	for (int i = 0; i < count; i++)
		tree_join(branches[i]);
	return check_pass();
}
