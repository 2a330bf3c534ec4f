// SPDX-License-Identifier: Apache-2.0
// Thin doors to the kernel for core/kernel and core/tracee: no policy here.
#define _GNU_SOURCE
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"
#include "kernel.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#ifndef PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG
#define PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211 /* since Linux 6.4 */
#endif

_Static_assert(sizeof(struct mg_op) == MG_OP_SIZE, "blob.S counts on it");
_Static_assert(sizeof(((struct mg_thread *)0)->regs) == sizeof(struct user_regs_struct),
	       "regs[] is the kernel's user_regs_struct");

extern const unsigned char mg_blob_start[], mg_blob_end[];

#define RSEQ_CS_OFFSET 8      /* in struct rseq */
#define SECTIONS_AT_ONCE 1024 /* UIO_MAXIOV */

struct rseq_configuration {
	unsigned long long address;
	unsigned int size, signature, flags, pad;
};

struct clone_arguments {
	unsigned long long flags, pidfd, child_tid, parent_tid, exit_signal;
	unsigned long long stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

long mg_syscall(long nr, unsigned long long a, unsigned long long b, unsigned long long c, unsigned long long d,
		unsigned long long e, unsigned long long f)
{
	long result = syscall(nr, a, b, c, d, e, f);

	return result == -1 ? -errno : result;
}

long mg_ptrace(long request, int tid, unsigned long long address, unsigned long long data)
{
	return mg_syscall(SYS_ptrace, request, tid, address, data, 0, 0);
}

int mg_wait(int tid, int flags, int *status)
{
	return mg_syscall(SYS_wait4, tid, (unsigned long)status, __WALL | __WNOTHREAD | flags, 0, 0, 0);
}

static long long monotonic_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000LL + now.tv_nsec / 1000;
}

/*
 * Most stops come within microseconds; a task in uninterruptible sleep (a
 * hung disk, a vfork parent) may never: hence polling, with a deadline.
 */
static int wait_for_stop(int tid, long long deadline_us)
{
	struct timespec pause = {0, 20000};
	int status = 0, result;

	for (;;) {
		result = mg_wait(tid, WNOHANG, &status);
		if (result > 0)
			return WIFSTOPPED(status) ? status >> 8 : -ESRCH;
		if (result < 0 && result != -EINTR)
			return result;
		if (monotonic_us() > deadline_us)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
}

/*
 * A stop other than ours (a signal on its way) is let through with that
 * signal; the INTERRUPT's own stop follows.
 */
static int settle_interrupt(int tid, long long deadline_us)
{
	for (int tries = 0; tries < 64; tries++) {
		int event = wait_for_stop(tid, deadline_us);

		if (event < 0)
			return event;
		if (event >> 8 == PTRACE_EVENT_STOP)
			return 0;
		mg_ptrace(PTRACE_INTERRUPT, tid, 0, 0);
		mg_ptrace(PTRACE_CONT, tid, 0, event & 0xff);
	}
	return -EAGAIN;
}

long long mg_stop_threads(const int *tids, int count, unsigned long options, int timeout_ms, int *errors)
{
	long long began_us = monotonic_us();

	/* One after the other: the second call for a thread is cheap right after the first. */
	for (int i = 0; i < count; i++) {
		errors[i] = mg_ptrace(PTRACE_SEIZE, tids[i], 0, options);
		if (!errors[i])
			errors[i] = mg_ptrace(PTRACE_INTERRUPT, tids[i], 0, 0);
	}
	for (int i = 0; i < count; i++)
		if (!errors[i])
			errors[i] = settle_interrupt(tids[i], began_us + timeout_ms * 1000LL);
	return began_us;
}

static int get_regset(int tid, int type, void *buffer, unsigned long *size)
{
	struct iovec vector = {buffer, *size};
	long result = mg_ptrace(PTRACE_GETREGSET, tid, type, (unsigned long)&vector);

	*size = vector.iov_len;
	return result;
}

static int set_regset(int tid, int type, const void *buffer, unsigned long size)
{
	struct iovec vector = {(void *)buffer, size};

	return mg_ptrace(PTRACE_SETREGSET, tid, type, (unsigned long)&vector);
}

static int read_memory(int tid, unsigned long address, void *buffer, unsigned long size)
{
	struct iovec local = {buffer, size};
	struct iovec remote = {(void *)address, size};

	return process_vm_readv(tid, &local, 1, &remote, 1, 0) == (ssize_t)size ? 0 : -EFAULT;
}

static void read_rseq(struct mg_thread *thread)
{
	struct rseq_configuration rseq = {0};

	if (mg_ptrace(PTRACE_GET_RSEQ_CONFIGURATION, thread->tid, sizeof(rseq), (unsigned long)&rseq) < 0)
		return;
	thread->rseq_address = rseq.address;
	thread->rseq_size = rseq.size;
	thread->rseq_signature = rseq.signature;
	thread->rseq_flags = rseq.flags;
}

/* Of threads of one process, at most SECTIONS_AT_ONCE. Where one cannot be read it is 0, as for who has no rseq. */
static void read_sections(struct mg_thread *threads, int count)
{
	struct iovec local[SECTIONS_AT_ONCE], remote[SECTIONS_AT_ONCE];
	const ssize_t size = sizeof(threads->rseq_critical_section);
	int found = 0;

	for (int i = 0; i < count; i++) {
		if (threads[i].error || !threads[i].rseq_address)
			continue;
		local[found] = (struct iovec){&threads[i].rseq_critical_section, size};
		remote[found++] = (struct iovec){(void *)(threads[i].rseq_address + RSEQ_CS_OFFSET), size};
	}
	if (!found || process_vm_readv(threads->tid, local, found, remote, found, 0) == size * found)
		return;
	for (int i = 0; i < count; i++) {
		threads[i].rseq_critical_section = 0;
		if (!threads[i].error && threads[i].rseq_address)
			read_memory(threads[i].tid, threads[i].rseq_address + RSEQ_CS_OFFSET,
				    &threads[i].rseq_critical_section, size);
	}
}

/* Whether system calls of the thread go to a handler of its own (prctl(2), PR_SET_SYSCALL_USER_DISPATCH). */
static int dispatches(int tid)
{
	unsigned long long config[4] = {0}; /* mode, selector, offset, length */

	return mg_ptrace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, sizeof(config), (unsigned long)config) >= 0 &&
	       config[0];
}

static int read_thread(struct mg_thread *thread)
{
	unsigned long size = sizeof(thread->regs);
	int result;

	result = get_regset(thread->tid, NT_PRSTATUS, thread->regs, &size);
	if (result)
		return result;
	size = thread->xstate_size;
	result = get_regset(thread->tid, NT_X86_XSTATE, thread->xstate, &size);
	if (result)
		return result;
	thread->xstate_size = size;
	result = mg_ptrace(PTRACE_GETSIGMASK, thread->tid, 8, (unsigned long)&thread->sigmask);
	if (result)
		return result;
	if (dispatches(thread->tid))
		return -EOPNOTSUPP;
	read_rseq(thread);
	return mg_syscall(SYS_get_robust_list, thread->tid, (unsigned long)&thread->robust_head,
			  (unsigned long)&thread->robust_len, 0, 0, 0);
}

int mg_read_threads(const int *tids, int count, struct mg_thread *threads, unsigned char *xstates,
		    unsigned int xstate_room)
{
	int failed = 0;

	for (int i = 0; i < count; i++) {
		threads[i].tid = tids[i];
		threads[i].xstate = xstates + (unsigned long)i * xstate_room;
		threads[i].xstate_size = xstate_room;
		threads[i].error = -read_thread(&threads[i]);
		failed += threads[i].error != 0;
	}
	for (int i = 0; i < count; i += SECTIONS_AT_ONCE)
		read_sections(threads + i, count - i < SECTIONS_AT_ONCE ? count - i : SECTIONS_AT_ONCE);
	return failed;
}

static int is_disturbed(const struct mg_thread *thread)
{
	const struct user_regs_struct *regs = (const struct user_regs_struct *)thread->regs;

	return thread->rseq_critical_section || (long)regs->rax == -EINTR || regs->rax == SYS_restart_syscall ||
	       regs->orig_rax == SYS_restart_syscall || (regs->orig_rax == SYS_recvmmsg && (long)regs->rax > 0);
}

int mg_find_disturbed(const struct mg_thread *threads, int count, int *indexes)
{
	int found = 0;

	for (int i = 0; i < count; i++)
		if (is_disturbed(&threads[i]))
			indexes[found++] = i;
	return found;
}

int mg_find_inside(const struct mg_thread *threads, int count, unsigned long start, unsigned long end, int *indexes)
{
	int found = 0;

	for (int i = 0; i < count; i++) {
		const struct user_regs_struct *regs = (const struct user_regs_struct *)threads[i].regs;

		if (start <= regs->rip && regs->rip < end)
			indexes[found++] = i;
	}
	return found;
}

static int write_thread(const struct mg_thread *thread)
{
	int result = 0;

	if (thread->xstate_size)
		result = set_regset(thread->tid, NT_X86_XSTATE, thread->xstate, thread->xstate_size);
	if (!result)
		result = mg_ptrace(PTRACE_SETSIGMASK, thread->tid, 8, (unsigned long)&thread->sigmask);
	if (!result)
		result = set_regset(thread->tid, NT_PRSTATUS, thread->regs, sizeof(thread->regs));
	return result;
}

int mg_write_threads(const struct mg_thread *threads, int count, int *failed)
{
	int result = 0;

	for (*failed = 0; *failed < count; ++*failed) {
		result = write_thread(&threads[*failed]);
		if (result)
			break;
	}
	return result;
}

int mg_detach_threads(const int *tids, int count, int *errors)
{
	int failed = 0;

	for (int i = 0; i < count; i++) {
		errors[i] = mg_ptrace(PTRACE_DETACH, tids[i], 0, 0);
		failed += errors[i] != 0;
	}
	return failed;
}

static void become_stem(int exe_fd, int mount_ns_fd)
{
	static char *const arguments[] = {"migrate-init", NULL};
	unsigned long long no_signals = 0, by_default[4] = {0};

	if (mount_ns_fd >= 0 && mg_syscall(SYS_setns, mount_ns_fd, CLONE_NEWNS, 0, 0, 0, 0) < 0)
		_exit(126);
	for (int number = 1; number < 65; number++) // what was ignored still is, CLONE_CLEAR_SIGHAND or not
		mg_syscall(SYS_rt_sigaction, number, (unsigned long)by_default, 0, 8, 0, 0);
	mg_syscall(SYS_rt_sigprocmask, SIG_SETMASK, (unsigned long)&no_signals, 0, 8, 0, 0);
	// exe_fd must live until exec: it is close-on-exec, all others too.
	mg_syscall(SYS_close_range, 0, ~0U, 4 /* CLOEXEC */, 0, 0, 0);
	mg_syscall(SYS_execveat, exe_fd, (unsigned long)"", (unsigned long)arguments, (unsigned long)&arguments[1],
		   AT_EMPTY_PATH, 0);
	_exit(127);
}

static struct clone_arguments stem_arguments(const int *set_tid, int set_tid_count, int cgroup_fd,
					     unsigned long long clone_flags)
{
	struct clone_arguments arguments = {
		.flags = clone_flags | CLONE_CLEAR_SIGHAND | CLONE_VFORK,
		.exit_signal = SIGCHLD,
		.set_tid = set_tid_count ? (unsigned long)set_tid : 0,
		.set_tid_size = set_tid_count,
	};

	if (cgroup_fd >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = cgroup_fd;
	}
	return arguments;
}

static long clone_stem(const struct clone_arguments *arguments, int exe_fd, int mount_ns_fd)
{
	long pid = mg_syscall(SYS_clone3, (unsigned long)arguments, sizeof(*arguments), 0, 0, 0, 0);

	if (pid == 0)
		become_stem(exe_fd, mount_ns_fd);
	return pid;
}

int mg_spawn(int exe_fd, const int *set_tid, int set_tid_count, int cgroup_fd, int mount_ns_fd,
	     unsigned long long clone_flags)
{
	struct clone_arguments arguments = stem_arguments(set_tid, set_tid_count, cgroup_fd, clone_flags);

	return clone_stem(&arguments, exe_fd, mount_ns_fd);
}

static long enter_time(const char *offsets)
{
	long result, size = strlen(offsets);
	int fd;

	result = mg_syscall(SYS_unshare, CLONE_NEWTIME, 0, 0, 0, 0, 0);
	if (result < 0)
		return result;
	fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, offsets, size) == size ? 0 : -errno;
}

/*
 * Who unshares its time namespace stays outside of it, its children are inside
 * for good. So a go-between does, and bears the stem as a child of ours.
 */
int mg_spawn_in_time(int exe_fd, const int *set_tid, int set_tid_count, int cgroup_fd, int mount_ns_fd,
		     unsigned long long clone_flags, const char *offsets)
{
	struct clone_arguments between = {.flags = CLONE_VFORK, .exit_signal = SIGCHLD};
	struct clone_arguments arguments =
		stem_arguments(set_tid, set_tid_count, cgroup_fd, clone_flags | CLONE_PARENT);
	long helper, result, *told;
	int status;

	arguments.exit_signal = 0; // as the go-between's: SIGCHLD
	told = mmap(NULL, sizeof(*told), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (told == MAP_FAILED)
		return -errno;
	helper = mg_syscall(SYS_clone3, (unsigned long)&between, sizeof(between), 0, 0, 0, 0);
	if (helper == 0) {
		result = enter_time(offsets);
		*told = result < 0 ? result : clone_stem(&arguments, exe_fd, mount_ns_fd);
		_exit(0);
	}
	if (helper > 0)
		mg_wait(helper, 0, &status);
	result = helper < 0 ? helper : *told;
	munmap(told, sizeof(*told));
	return set_tid_count && result == -EEXIST && helper == *set_tid ? -EAGAIN : result;
}

const unsigned char *mg_blob(void)
{
	return mg_blob_start;
}

int mg_blob_size(void)
{
	return mg_blob_end - mg_blob_start;
}

unsigned long long mg_xcr0(void)
{
	unsigned int a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 0;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return a | (unsigned long long)d << 32;
}

int mg_xsave_component(int component, unsigned int *offset, unsigned int *size)
{
	unsigned int c, d;

	if (!__get_cpuid_count(0xd, component, size, offset, &c, &d) || !*size)
		return -ENOENT;
	return 0;
}
