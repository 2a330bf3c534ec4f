// The nice value is kept, one for each thread as Linux has it.
#include "check.h"
#include <sys/resource.h>

static _Atomic bool prepared, go;

static void *nicer_thread(void *unused)
{
	MUST(setpriority(PRIO_PROCESS, gettid(), 11));
	prepared = true;
	while (!go)
		check_nap();
	EQUAL(getpriority(PRIO_PROCESS, gettid()), 11);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	check_init(argc, argv);
	MUST(setpriority(PRIO_PROCESS, gettid(), 7));
	thread = thread_start(nicer_thread, NULL);
	while (!prepared)
		check_nap();
	check_ready_and_wait();
	EQUAL(getpriority(PRIO_PROCESS, getpid()), 7);
	go = true;
	thread_join(thread);
	return check_pass();
}
