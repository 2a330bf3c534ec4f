// The time slice that a thread has chosen is kept, where the kernel knows such (Linux 6.12), and others have none.
#include "check.h"
#include <linux/types.h>
#include <sched.h>
#include <sys/syscall.h>

#define CHOSEN 5000000ULL
#define LONGER 9000000ULL

struct attributes { /* sched_setattr(2) */
	__u32 size, policy;
	__u64 flags;
	__s32 nice;
	__u32 priority;
	__u64 runtime, deadline, period;
};

static _Atomic int prepared;
static _Atomic bool go;
static unsigned long long ordinary;

static unsigned long long slice(void)
{
	struct attributes found = {0};

	MUST(syscall(SYS_sched_getattr, 0, &found, sizeof(found), 0));
	return found.runtime;
}

static unsigned long long choose(unsigned policy, unsigned long long length)
{
	struct attributes chosen = {.size = sizeof(chosen), .policy = policy, .nice = 3, .runtime = length};

	MUST(syscall(SYS_sched_setattr, 0, &chosen, 0));
	return slice();
}

static void *chooses(void *unused)
{
	unsigned long long before = choose(SCHED_BATCH, LONGER);

	prepared++;
	while (!go)
		check_nap();
	EQUAL(slice(), before);
	EQUAL(sched_getscheduler(0), SCHED_BATCH);
	return unused;
}

static void *chooses_none(void *unused)
{
	prepared++;
	while (!go)
		check_nap();
	EQUAL(slice(), ordinary);
	return unused;
}

int main(int argc, char **argv)
{
	unsigned long long before;
	pthread_t one, other;

	check_init(argc, argv);
	ordinary = slice();
	one = thread_start(chooses, NULL);
	other = thread_start(chooses_none, NULL);
	while (prepared < 2)
		check_nap();
	before = choose(SCHED_OTHER, CHOSEN);
	check_ready_and_wait();
	EQUAL(slice(), before);
	go = true;
	thread_join(one);
	thread_join(other);
	return check_pass();
}
