// The scheduling policy of every thread is kept: batch for the first, idle for the second.
#include "check.h"
#include <sched.h>

static _Atomic bool prepared, go;

static void *idle_thread(void *unused)
{
	struct sched_param none = {};

	MUST(sched_setscheduler(0, SCHED_IDLE, &none));
	prepared = true;
	while (!go)
		check_nap();
	EQUAL(sched_getscheduler(0), SCHED_IDLE);
	return unused;
}

int main(int argc, char **argv)
{
	struct sched_param none = {};
	pthread_t thread;

	check_init(argc, argv);
	MUST(sched_setscheduler(0, SCHED_BATCH, &none));
	thread = thread_start(idle_thread, NULL);
	while (!prepared)
		check_nap();
	check_ready_and_wait();
	EQUAL(sched_getscheduler(0), SCHED_BATCH);
	go = true;
	thread_join(thread);
	return check_pass();
}
