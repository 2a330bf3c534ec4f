// A thread scheduled by deadline keeps its runtime, deadline and period.
#include "check.h"
#include <sys/syscall.h>

struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

int main(int argc, char **argv)
{
	struct attributes wanted = {sizeof(wanted), 6, 0, 0, 0, 2000000, 30000000, 40000000}, now = {0};

	check_init(argc, argv);
	MUST(syscall(SYS_sched_setattr, 0, &wanted, 0));
	check_ready_and_wait();
	MUST(syscall(SYS_sched_getattr, 0, &now, sizeof(now), 0));
	EQUAL(now.policy, wanted.policy);
	EQUAL(now.runtime, wanted.runtime);
	EQUAL(now.deadline, wanted.deadline);
	EQUAL(now.period, wanted.period);
	return check_pass();
}
