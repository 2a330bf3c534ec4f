/* An rseq area that is registered: the kernel writes there on which CPU the thread is. */
#ifndef REGISTERED_H
#define REGISTERED_H

#include "check.h"
#include <sched.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

/* On every CPU; leaves in errno how a second registration is refused. */
static inline void check_registered(struct rseq *area)
{
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
	EQUAL(syscall(SYS_rseq, area, 32, 0, RSEQ_SIG), -1);
}

#endif
