// Every thread keeps its own blocked signals.
#include "check.h"
#include <signal.h>

#define THREADS 5

static _Atomic int prepared;
static _Atomic bool go;

/* The mask of thread i: SIGUSR1 and every i+2nd signal, real-time ones included. */
static void block_own(long index)
{
	sigset_t mask;

	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	for (int number = 1; number <= SIGRTMAX; number += index + 2)
		sigaddset(&mask, number);
	EQUAL(pthread_sigmask(SIG_SETMASK, &mask, NULL), 0);
}

static void *keep_mask(void *argument)
{
	sigset_t before, after;

	block_own((long)argument);
	EQUAL(pthread_sigmask(SIG_SETMASK, NULL, &before), 0);
	prepared++;
	while (!go)
		check_nap();
	EQUAL(pthread_sigmask(SIG_SETMASK, NULL, &after), 0);
	for (int number = 1; number <= SIGRTMAX; number++)
		EQUAL(sigismember(&after, number), sigismember(&before, number));
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];

	check_init(argc, argv);
	for (long i = 0; i < THREADS; i++)
		threads[i] = thread_start(keep_mask, (void *)i);
	while (prepared < THREADS)
		check_nap();
	check_ready_and_wait();
	go = true;
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	return check_pass();
}
