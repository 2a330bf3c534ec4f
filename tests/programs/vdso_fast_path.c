// clock_gettime, gettimeofday and getcpu are still answered in the vDSO, without a system call.
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

static struct sock_filter only_exit[] = {
	BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit, 0, 1),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
};

/* In a child that any system call but exit kills. */
static int status_of_strict_child(void)
{
	struct sock_fprog filter = {sizeof(only_exit) / sizeof(*only_exit), only_exit};
	struct timespec now;
	struct timeval wall;
	unsigned int cpu;
	int status = 0;
	pid_t child = MUST(fork());

	if (child == 0) {
		MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
		MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
		clock_gettime(CLOCK_MONOTONIC, &now);
		clock_gettime(CLOCK_REALTIME, &now);
		gettimeofday(&wall, NULL);
		getcpu(&cpu, NULL);
		syscall(SYS_exit, 42);
	}
	EQUAL(waitpid(child, &status, 0), child);
	return status;
}

int main(int argc, char **argv)
{
	int before;

	check_init(argc, argv);
	before = status_of_strict_child(); /* a host whose clock needs the kernel fails already here */
	EQUAL(WIFEXITED(before) ? WEXITSTATUS(before) : -1, 42);
	check_ready_and_wait();
	EQUAL(status_of_strict_child(), before);
	return check_pass();
}
