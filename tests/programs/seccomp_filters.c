// A chain of seccomp filters stays in force in every thread, shared so that one more can be given to all of them.
// cflags: -pthread
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static _Atomic int prepared;
static _Atomic bool go;

/* System call `number` fails with `error` from now on. */
static void forbid(int number, int error, unsigned int flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {4, code};

	EQUAL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program), 0);
}

static void fails(int number, int error)
{
	errno = 0;
	EQUAL(syscall(number, 0, 0, 0, 0), error ? -1 : 0);
	EQUAL(errno, error);
}

static void *threaded(void *argument)
{
	prepared++;
	while (!go)
		check_nap();
	fails(SYS_sched_yield, 71);
	fails(SYS_timerfd_create, 72);
	fails(SYS_munlockall, argument ? 74 : 0);
	return NULL;
}

static void *forbids_itself(void *argument)
{
	forbid(SYS_munlockall, 74, 0);
	return threaded(argument);
}

int main(int argc, char **argv)
{
	pthread_t one, other;

	check_init(argc, argv);
	EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	one = thread_start(threaded, NULL);
	forbid(SYS_sched_yield, 71, SECCOMP_FILTER_FLAG_TSYNC);
	forbid(SYS_timerfd_create, 72, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_LOG);
	check_ready_and_wait();
	forbid(SYS_munlock, 73, SECCOMP_FILTER_FLAG_TSYNC);
	other = thread_start(forbids_itself, argv);
	go = true;
	fails(SYS_munlock, 73);
	thread_join(one);
	thread_join(other);
	return check_pass();
}
