// An rseq area of 64 bytes, where the kernel takes one that large, stays registered: cpu_id goes on being written.
#include "check.h"
#include <sched.h>
#include <sys/rseq.h>
#include <sys/syscall.h>

static struct {
	struct rseq rseq;
	char rest[64 - sizeof(struct rseq)];
} large __attribute__((aligned(64)));

static void check_registered(void)
{
	cpu_set_t all, one;

	MUST(sched_getaffinity(0, sizeof(all), &all));
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		MUST(sched_setaffinity(0, sizeof(one), &one));
		EQUAL(*(volatile uint32_t *)&large.rseq.cpu_id, cpu);
	}
	MUST(sched_setaffinity(0, sizeof(all), &all));
	EQUAL(syscall(SYS_rseq, &large, 32, 0, RSEQ_SIG), -1); /* there is one already */
	CHECK(errno == EBUSY || errno == EINVAL);
	errno = 0;
}

int main(int argc, char **argv)
{
	struct rseq *libcs = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	check_init(argc, argv);
	if (__rseq_size)
		MUST(syscall(SYS_rseq, libcs, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG));
	if (syscall(SYS_rseq, &large, sizeof(large), 0, RSEQ_SIG) < 0) {
		MUST(syscall(SYS_rseq, &large, 32, 0, RSEQ_SIG));
		check_publish("small", "");
	}
	check_registered();
	check_ready_and_wait();
	check_registered();
	return check_pass();
}
