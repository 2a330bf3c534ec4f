// Adjustments of semaphores (SEM_UNDO) are made when each process ends; those that threads share, with the last one.
// requires: root
#include "tree.h"

#include <pthread.h>
#include <sched.h>
#include <sys/ipc.h>
#include <sys/sem.h>

enum { OWN, CHILDS, FULL, FAR, SHARED, NONE, SEMAPHORES = 3000, LAST = SEMAPHORES - 1 };

static int set = -1;

static void remove_set(void)
{
	semctl(set, 0, IPC_RMID);
}

static void change(int number, int by, int flags)
{
	struct sembuf one = {.sem_num = number, .sem_op = by, .sem_flg = flags | IPC_NOWAIT};

	EQUAL(semop(set, &one, 1), 0);
}

static int value_of(int number)
{
	return MUST(semctl(set, number, GETVAL));
}

/* Adjusts in several steps, as far as it goes. */
static pid_t fork_child(void)
{
	pid_t child = MUST(fork());

	if (child)
		return child;
	change(CHILDS, 5, SEM_UNDO);
	change(FULL, -32767, SEM_UNDO);
	change(FULL, 32767, 0);
	change(FAR, 20000, SEM_UNDO);
	change(FAR, -2345, SEM_UNDO);
	change(NONE, 3, SEM_UNDO);
	change(NONE, -3, SEM_UNDO);
	change(LAST, 7, SEM_UNDO);
	tree_wait();
	_exit(0);
}

static void *sleep_on(void *unused)
{
	(void)unused;
	pause();
	return NULL;
}

static void *end_process(void *unused)
{
	(void)unused;
	tree_wait();
	EQUAL(value_of(SHARED), 15); /* though the first thread has ended */
	_exit(0);
}

/* Threads share a list: it is there as long as one of them. */
static pid_t fork_threads(void)
{
	pid_t child = MUST(fork());
	pthread_t thread;

	if (child)
		return child;
	EQUAL(pthread_create(&thread, NULL, sleep_on, NULL), 0);
	EQUAL(pthread_create(&thread, NULL, end_process, NULL), 0);
	change(SHARED, 5, SEM_UNDO);
	for (;;)
		pause();
}

int main(int argc, char **argv)
{
	unsigned short values[SEMAPHORES] = {[OWN] = 10, [FULL] = 32767, [SHARED] = 10};
	pid_t child, threads;

	tree_init(argc, argv);
	check_on_fail = remove_set;
	set = MUST(semget(IPC_PRIVATE, SEMAPHORES, 0600));
	EQUAL(semctl(set, 0, SETALL, values), 0);
	change(OWN, -4, SEM_UNDO);
	child = fork_child();
	threads = fork_threads();
	for (int naps = 0; naps < TREE_NAPS && value_of(SHARED) != 15; naps++)
		check_nap();

	tree_meet(2);
	check_ready_and_wait();
	change(FULL, -32767, 0);
	close(tree_gate[1]);

	tree_join(child);
	EQUAL(value_of(OWN), 6);
	EQUAL(value_of(CHILDS), 0);
	EQUAL(value_of(FULL), 32767);
	EQUAL(value_of(FAR), 0);
	EQUAL(value_of(NONE), 0);
	EQUAL(value_of(LAST), 0);
	tree_join(threads);
	EQUAL(value_of(SHARED), 10);
	MUST(unshare(CLONE_SYSVSEM)); /* ours, as if we ended */
	EQUAL(value_of(OWN), 10);
	remove_set();
	return check_pass();
}
