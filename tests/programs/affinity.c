// Every thread keeps the set of CPUs it may run on.
#include "check.h"
#include <sched.h>

static _Atomic bool prepared, go;
static cpu_set_t first, last;

static void check_set(const cpu_set_t *expected)
{
	cpu_set_t now;

	MUST(sched_getaffinity(0, sizeof(now), &now));
	CHECK(CPU_EQUAL(&now, expected));
}

static void *pinned_thread(void *unused)
{
	MUST(sched_setaffinity(0, sizeof(last), &last));
	prepared = true;
	while (!go)
		check_nap();
	check_set(&last);
	return unused;
}

int main(int argc, char **argv)
{
	cpu_set_t all;
	pthread_t thread;

	check_init(argc, argv);
	MUST(sched_getaffinity(0, sizeof(all), &all));
	for (int cpu = CPU_SETSIZE - 1, seen = 0; cpu >= 0; cpu--) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		if (!seen++)
			CPU_SET(cpu, &last);
		CPU_ZERO(&first);
		CPU_SET(cpu, &first);
	}
	thread = thread_start(pinned_thread, NULL);
	MUST(sched_setaffinity(0, sizeof(first), &first));
	while (!prepared)
		check_nap();
	check_ready_and_wait();
	check_set(&first);
	go = true;
	thread_join(thread);
	return check_pass();
}
