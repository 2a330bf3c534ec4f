// Restartable sequences stay registered in every thread: the kernel goes on writing cpu_id there.
#include "check.h"
#include <sched.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

static _Atomic bool go;

static void check_registered(void)
{
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
	cpu_set_t all, one;

	MUST(sched_getaffinity(0, sizeof(all), &all));
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		MUST(sched_setaffinity(0, sizeof(one), &one));
		EQUAL(*(volatile uint32_t *)&area->cpu_id, cpu);
	}
	MUST(sched_setaffinity(0, sizeof(all), &all));
	EQUAL(syscall(SYS_rseq, area, 32, 0, RSEQ_SIG), -1); /* a second time is refused */
	EQUAL(errno, EBUSY);
}

static void *thread_body(void *unused)
{
	while (!go)
		check_nap();
	check_registered();
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t threads[3];

	check_init(argc, argv);
	check_registered();
	for (int i = 0; i < 3; i++)
		threads[i] = thread_start(thread_body, NULL);
	check_ready_and_wait();
	check_registered();
	go = true;
	for (int i = 0; i < 3; i++)
		thread_join(threads[i]);
	return check_pass();
}
