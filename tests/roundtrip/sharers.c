/*
 * A root, its child, and two children of that which have its memory (CLONE_VM): their pids go to the file that is named.
 * The three store all the time. SIGUSR1: whoever gets it executes sleep(1); SIGUSR2: it ends.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define STACK (256 * 1024)
#define PAGE 4096

static volatile char pages[3][PAGE * 16];
static volatile pid_t pids[3];

static void on_signal(int number)
{
	if (number == SIGUSR1)
		execl("/bin/sleep", "sleep", "1000", NULL);
	_exit(0);
}

__attribute__((noreturn)) static int store(void *argument)
{
	struct timespec nap = {.tv_nsec = 1000 * 1000};
	long me = (long)argument;

	for (unsigned int i = 0;; i++) {
		pages[me][i * 97 % sizeof(pages[me])]++;
		nanosleep(&nap, NULL);
	}
}

static pid_t born(long number)
{
	char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return clone(store, stack + STACK, CLONE_VM | SIGCHLD, (void *)number);
}

int main(int argc, char **argv)
{
	FILE *told;

	if (argc != 2 || prctl(PR_SET_CHILD_SUBREAPER, 1) || signal(SIGCHLD, SIG_IGN) == SIG_ERR)
		return 1;
	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	if (fork())
		for (;;)
			pause();
	pids[0] = getpid();
	pids[1] = born(1);
	pids[2] = born(2);
	told = fopen(argv[1], "w");
	fprintf(told, "%d %d %d\n", pids[0], pids[1], pids[2]);
	fclose(told);
	store(0);
}
