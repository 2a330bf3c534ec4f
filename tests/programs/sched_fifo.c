// A real-time policy, its priority and the reset-on-fork flag are kept.
// requires: root
#include "check.h"
#include <sched.h>

int main(int argc, char **argv)
{
	struct sched_param priority = {.sched_priority = 5};

	check_init(argc, argv);
	MUST(sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &priority));
	check_ready_and_wait();
	EQUAL(sched_getscheduler(0), SCHED_FIFO | SCHED_RESET_ON_FORK);
	MUST(sched_getparam(0, &priority));
	EQUAL(priority.sched_priority, 5);
	return check_pass();
}
