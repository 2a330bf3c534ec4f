// Processes of one memory (CLONE_VM) have it together still, each with its own descriptors, umask and signal actions.
#include "tree.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define WORKERS 3
#define STACK (256 * 1024)
#define QUARTER (1024 * 1024)

struct worker {
	pid_t pid, child;
	int number;
	long counted;
	volatile sig_atomic_t caught;
};

static struct worker workers[WORKERS + 1]; /* the last is a child of the first */
static unsigned char *quarters;		   /* one is each worker's */
static volatile sig_atomic_t caught_by_root;

static void on_signal(int number)
{
	for (int i = 0; i <= WORKERS; i++)
		if (workers[i].pid == syscall(SYS_getpid))
			workers[i].caught = number;
}

static void on_root_signal(int number)
{
	caught_by_root = number;
}

static int run(void *argument);

static pid_t bear(struct worker *child)
{
	char *stack = MUST(mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	child->number = child - workers;
	return child->pid = MUST(clone(run, stack + STACK, CLONE_VM | SIGCHLD, child));
}

static void check_quarter(int number, int value)
{
	for (size_t i = 0; i < QUARTER; i++)
		if (quarters[number * QUARTER + i] != value)
			check_fail("byte %zu of quarter %d is %d", i, number, quarters[number * QUARTER + i]);
}

/* Its memory is a copy of the worker's that bore it. */
static void run_copier(void)
{
	memset(quarters, 77, QUARTER);
	tree_wait();
	check_quarter(0, 77);
	for (int i = 1; i <= WORKERS; i++)
		check_quarter(i, i);
	_exit(0);
}

static int run(void *argument)
{
	struct worker *me = argument;
	struct sigaction action = {.sa_handler = on_signal}, found;
	int mine = me->number % 2 ? SIGUSR1 : SIGUSR2, other = me->number % 2 ? SIGUSR2 : SIGUSR1;
	char name[64], path[PATH_MAX], text[8] = "";

	/* All workers have one malloc between them, which takes them for one thread. */
	snprintf(name, sizeof(name), "file%d", me->number);
	snprintf(path, sizeof(path), "%s/%s", check_dir, name);
	EQUAL(dup2(MUST(open(path, O_RDWR | O_CREAT | O_TRUNC, 0600)), 50), 50);
	EQUAL(write(50, name, 6), 6);
	MUST(sigaction(mine, &action, NULL));
	umask(me->number);
	if (me->number == 0)
		me->child = bear(&workers[WORKERS]);
	if (me->number == 1) {
		me->child = MUST(fork());
		if (me->child == 0)
			run_copier();
	}
	tree_wait();
	EQUAL(syscall(SYS_getpid), me->pid);
	EQUAL(umask(0), me->number);
	EQUAL(pread(50, text, 7, 0), 6);
	EQUAL(strcmp(text, name), 0);
	MUST(sigaction(other, NULL, &found));
	CHECK(found.sa_handler == (other == SIGUSR1 ? SIG_DFL : me->number == WORKERS ? on_signal : on_root_signal));
	MUST(kill(me->pid, mine));
	EQUAL(me->caught, mine);
	check_quarter(me->number, me->number);
	memset(quarters + me->number * QUARTER, 100 + me->number, QUARTER);
	if (me->child)
		tree_join(me->child);
	me->counted = 1000 + me->number;
	_exit(0);
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_root_signal}, found;

	tree_init(argc, argv);
	quarters = MUST(mmap(NULL, 4 * QUARTER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	MUST(sigaction(SIGUSR2, &action, NULL));
	for (int i = 0; i <= WORKERS; i++)
		memset(quarters + i * QUARTER, i, QUARTER);
	for (int i = 0; i < WORKERS; i++)
		bear(&workers[i]);
	tree_ready_and_wait(WORKERS + 2);
	for (int i = 0; i < WORKERS; i++)
		tree_join(workers[i].pid);
	for (int i = 0; i <= WORKERS; i++) {
		EQUAL(workers[i].counted, 1000 + i);
		check_quarter(i, 100 + i);
	}
	EQUAL(fcntl(50, F_GETFD), -1);
	errno = 0;
	MUST(sigaction(SIGUSR2, NULL, &found));
	CHECK(found.sa_handler == on_root_signal && caught_by_root == 0);
	MUST(sigaction(SIGUSR1, NULL, &found));
	CHECK(found.sa_handler == SIG_DFL);
	return check_pass();
}
