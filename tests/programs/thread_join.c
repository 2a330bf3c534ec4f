// Threads that end after the move can be joined: the kernel clears and wakes their clear_child_tid word.
#include "check.h"

#define THREADS 8

static _Atomic bool go;

static void *wait_for_go(void *argument)
{
	while (!go)
		check_nap();
	return argument;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];

	check_init(argc, argv);
	for (int i = 0; i < THREADS; i++)
		threads[i] = thread_start(wait_for_go, NULL);
	check_ready_and_wait();
	go = true;
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	thread_join(thread_start(wait_for_go, NULL)); /* and new ones still come and go */
	return check_pass();
}
