// Each thread keeps its timer slack, I/O priority, NUMA policy and speculation control.
// cflags: -pthread
#include "check.h"
#include <linux/ioprio.h>
#include <linux/mempolicy.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define PEERS 2

struct choices {
	long slack, priority, speculation;
	int policy;
	unsigned long nodes[16];
};

static _Atomic int prepared;
static _Atomic bool go;

static void choose(long index)
{
	unsigned long first_node = 1;

	MUST(prctl(PR_SET_TIMERSLACK, 70000 + index, 0, 0, 0));
	MUST(syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 2 + index)));
	MUST(syscall(SYS_set_mempolicy, index ? MPOL_BIND : MPOL_INTERLEAVE, &first_node, 64));
	if (prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0) & PR_SPEC_PRCTL)
		MUST(prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0));
}

static void look(struct choices *choices)
{
	memset(choices, 0, sizeof(*choices));
	choices->slack = MUST(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0));
	choices->priority = MUST(syscall(SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0));
	MUST(syscall(SYS_get_mempolicy, &choices->policy, choices->nodes, 1024, 0, 0));
	choices->speculation = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
}

static void *chooser(void *index)
{
	struct choices before, after;

	choose((long)index);
	look(&before);
	EQUAL(before.slack, 70000 + (long)index);
	prepared++;
	while (!go)
		check_nap();
	look(&after);
	EQUAL(after.slack, before.slack);
	EQUAL(after.priority, before.priority);
	EQUAL(after.policy, before.policy);
	EQUAL(after.nodes[0], before.nodes[0]);
	EQUAL(after.speculation, before.speculation);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[PEERS];

	check_init(argc, argv);
	for (long i = 0; i < PEERS; i++)
		threads[i] = thread_start(chooser, (void *)i);
	while (prepared < PEERS)
		check_nap();
	check_ready_and_wait();
	go = true;
	for (int i = 0; i < PEERS; i++)
		thread_join(threads[i]);
	return check_pass();
}
