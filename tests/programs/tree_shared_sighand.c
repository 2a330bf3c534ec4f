// Processes that share memory, descriptors, directory and signal actions (as LinuxThreads did) do so still.
#include "tree.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define WORKERS 2
#define STACK (256 * 1024)
#define FLAGS (CLONE_VM | CLONE_SIGHAND | CLONE_FILES | CLONE_FS | SIGCHLD)

static volatile pid_t pids[WORKERS + 1];
static volatile int caught[WORKERS + 1], turn, opened = -1;
static volatile long counts[WORKERS + 1];

static void on_signal(int number)
{
	for (int i = 0; i <= WORKERS; i++)
		if (pids[i] == syscall(SYS_getpid))
			caught[i] = number;
}

static void await_turn(int wanted)
{
	for (int naps = 0; turn < wanted && naps < TREE_NAPS; naps++)
		check_nap();
	EQUAL(turn, wanted);
}

/* Not tree_wait: the gate is one for all of them here. */
static int run(void *argument)
{
	int me = (long)argument;
	struct sigaction action = {.sa_handler = on_signal};

	counts[me] = 1;
	while (turn == 0) { /* it stores all the time */
		counts[me]++;
		check_nap();
	}
	EQUAL(syscall(SYS_getpid), pids[me]);
	await_turn(me);
	if (me == 1) {
		MUST(sigaction(SIGUSR2, &action, NULL));
		umask(027);
		opened = MUST(open("/dev/null", O_RDWR));
	}
	if (me == 2) {
		MUST(kill(pids[2], SIGUSR2));
		EQUAL(caught[2], SIGUSR2);
		EQUAL(umask(027), 027);
		MUST(close(opened));
	}
	turn = me + 1;
	_exit(0);
}

int main(int argc, char **argv)
{
	tree_init(argc, argv);
	for (long i = 1; i <= WORKERS; i++) {
		char *stack = MUST(mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

		pids[i] = MUST(clone(run, stack + STACK, FLAGS, (void *)i));
	}
	check_ready_and_wait();
	turn = 1;
	for (int i = 1; i <= WORKERS; i++)
		tree_join(pids[i]);
	EQUAL(turn, WORKERS + 1);
	EQUAL(fcntl(opened, F_GETFD), -1);
	errno = 0;
	MUST(kill(getpid(), SIGUSR2));
	EQUAL(caught[1], 0);
	EQUAL(umask(0), 027);
	for (int i = 1; i <= WORKERS; i++)
		CHECK(counts[i] > 1);
	return check_pass();
}
