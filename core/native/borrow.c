// SPDX-License-Identifier: Apache-2.0
// Runs programs in many stopped threads at once for core/tracee/borrow.py: no policy here.
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "abi.h"
#include "kernel.h"

#include "borrow.h"

#define UC_FLAGS 7	   /* FP_XSTATE | SIGCONTEXT_SS | STRICT_RESTORE_SS */
#define KEEP_ALTSTACK 0x7f /* flags that sigaltstack(2) refuses: sigreturn leaves the stack as it is */
#define FP_XSTATE_MAGIC1 0x46505853U
#define FP_XSTATE_MAGIC2 0x46505845U
#define SOFTWARE_BYTES 464 /* where in the legacy area the kernel's own words begin */
#define LEGACY_SIZE 512
#define STRAY_STOPS 64
#define ALIGNED(value, to) (((value) + (to)-1) / (to) * (to))

/* The kernel's struct rt_sigframe up to the floating-point area. Source: asm/sigcontext.h, asm/ucontext.h */
struct frame_head {
	unsigned long long restorer;
	unsigned long long flags, link, stack_address;
	int stack_flags, pad;
	unsigned long long stack_size;
	unsigned long long general[18];
	unsigned short cs, gs, fs, ss;
	unsigned long long error, trap, old_mask, fault_address, fpu, reserved[8];
	unsigned long long sigmask;
};

struct software_words {
	unsigned int magic, extended_size;
	unsigned long long features;
	unsigned int size, padding[7];
};

_Static_assert(sizeof(struct frame_head) == 8 + 304, "no padding");
_Static_assert(sizeof(struct software_words) == LEGACY_SIZE - SOFTWARE_BYTES, "fills the legacy area");

int mg_frame_size(int xstate_size)
{
	return sizeof(struct frame_head) + 128 + 8 + 64 + xstate_size + 4 + 16;
}

static int is_restarted(const struct user_regs_struct *regs)
{
	long result = regs->rax;

	return (long)regs->orig_rax >= 0 && (result == -512 || result == -513 || result == -514 || result == -516);
}

int mg_build_frame(const struct mg_thread *thread, const struct mg_borrowed *how, unsigned long long address,
		   unsigned long long restorer, unsigned char *frame)
{
	struct user_regs_struct r = *(const struct user_regs_struct *)thread->regs;
	unsigned int size = thread->xstate_size < how->xstate_size ? thread->xstate_size : how->xstate_size;
	unsigned long long fpu = ALIGNED(address + sizeof(struct frame_head) + 128 + 8, 64);
	struct software_words words = {FP_XSTATE_MAGIC1, size + 4, how->xfeatures, size};
	unsigned int magic2 = FP_XSTATE_MAGIC2;
	unsigned char *area = frame + (fpu - address);

	if (is_restarted(&r)) {
		r.rax = r.orig_rax;
		r.rip -= 2;
	}
	struct frame_head head = {
		.restorer = restorer,
		.flags = UC_FLAGS,
		.stack_flags = KEEP_ALTSTACK,
		.general = {r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx,
			    r.rax, r.rcx, r.rsp, r.rip, r.eflags},
		.cs = r.cs,
		.gs = r.gs,
		.fs = r.fs,
		.ss = r.ss,
		.fpu = fpu,
		.sigmask = thread->sigmask,
	};
	memset(frame, 0, area - frame);
	memcpy(frame, &head, sizeof(head));
	memcpy(area, thread->xstate, size);
	memcpy(area + SOFTWARE_BYTES, &words, sizeof(words));
	memcpy(area + size, &magic2, sizeof(magic2));
	return area + size + sizeof(magic2) - frame;
}

static void relocate(const struct mg_job *job)
{
	const struct mg_program *program = job->program;
	struct mg_op *ops = (struct mg_op *)job->content;

	memcpy(job->content, program->content, program->size);
	for (unsigned int i = 0; i < program->address_count; i++) {
		unsigned long long word;

		memcpy(&word, job->content + program->addresses[i], sizeof(word));
		word += job->place;
		memcpy(job->content + program->addresses[i], &word, sizeof(word));
	}
	for (unsigned int i = 0; i < program->yield_count; i++) {
		ops[program->yields[i]].args[0] = job->own_tid;
		ops[program->yields[i]].args[1] = job->yield_signal;
	}
}

static unsigned long long frame_address(const struct mg_job *job, const struct mg_borrowed *how)
{
	return job->place + ALIGNED(job->program->size + how->stack_room, 64);
}

static int place(const struct mg_job *job, const struct mg_borrowed *how, unsigned char *frame)
{
	unsigned long long address = frame_address(job, how);
	int size = mg_build_frame(job->thread, how, address, 0, frame);
	struct iovec local[] = {{job->content, job->program->size}, {frame, size}};
	struct iovec remote[] = {{(void *)job->place, job->program->size}, {(void *)address, size}};
	ssize_t wanted = local[0].iov_len + local[1].iov_len;
	ssize_t written = process_vm_writev(job->thread->tid, local, 2, remote, 2, 0);

	return written == wanted ? 0 : written < 0 ? -errno : -EFAULT;
}

static int set_registers(int tid, const void *regs)
{
	struct iovec part = {(void *)regs, sizeof(struct user_regs_struct)};

	return mg_ptrace(PTRACE_SETREGSET, tid, NT_PRSTATUS, (unsigned long)&part);
}

static int set_mask(int tid, unsigned long long mask)
{
	return mg_ptrace(PTRACE_SETSIGMASK, tid, sizeof(mask), (unsigned long)&mask);
}

/* The registers before the mask: should we die between, the frame's room takes a handler's frame. */
static int start(const struct mg_job *job, const struct mg_borrowed *how)
{
	struct user_regs_struct regs = *(const struct user_regs_struct *)job->thread->regs;
	int tid = job->thread->tid, result;

	regs.rip = job->code;
	regs.rsp = frame_address(job, how) + 8;
	regs.r12 = job->place;
	regs.r13 = job->place;
	regs.r15 = job->place + job->program->op_count * sizeof(struct mg_op);
	regs.rax = 0;
	regs.orig_rax = -1;
	result = set_registers(tid, &regs);
	if (!result)
		result = set_mask(tid, ~(1ULL << (job->yield_signal - 1)));
	return result ? result : mg_ptrace(PTRACE_CONT, tid, 0, 0);
}

static int is_deadly(int number)
{
	return number == SIGSEGV || number == SIGILL || number == SIGBUS || number == SIGSYS;
}

static int is_error(long long result)
{
	return result < 0 && result > -4096;
}

static int has_ended_its_program(const struct mg_job *job)
{
	unsigned long long op = 0;
	long result = mg_ptrace(PTRACE_PEEKUSER, job->thread->tid, offsetof(struct user_regs_struct, r12),
				(unsigned long)&op);

	if (result < 0)
		return result;
	return op >= job->place + job->program->op_count * sizeof(struct mg_op);
}

static int wait_end(struct mg_job *job)
{
	int tid = job->thread->tid, status = 0, result;

	for (int tries = 0; tries < STRAY_STOPS; tries++) {
		do
			result = mg_wait(tid, 0, &status);
		while (result == -EINTR);
		if (result < 0)
			return result;
		if (!WIFSTOPPED(status))
			return -ESRCH;
		if (status >> 16 != PTRACE_EVENT_STOP) {
			if (WSTOPSIG(status) == job->yield_signal) {
				result = has_ended_its_program(job);
				if (result)
					return result < 0 ? result : 0;
			} else if (is_deadly(WSTOPSIG(status))) {
				job->fatal_signal = WSTOPSIG(status);
				return -EFAULT;
			}
		}
		result = mg_ptrace(PTRACE_CONT, tid, 0, 0);
		if (result)
			return result;
	}
	return -ETIMEDOUT;
}

static int failed_op(const struct mg_job *job)
{
	const struct mg_op *ops = (const struct mg_op *)job->content;

	for (unsigned int i = 0; i < job->program->op_count; i++) {
		if (!(ops[i].flags & MG_OP_MAY_FAIL) && (ops[i].result == LLONG_MIN || is_error(ops[i].result)))
			return i + 1;
	}
	return 0;
}

static int take_back(struct mg_job *job)
{
	struct iovec local = {job->content, job->program->size};
	struct iovec remote = {(void *)job->place, job->program->size};
	ssize_t got = process_vm_readv(job->thread->tid, &local, 1, &remote, 1, 0);
	int result = got == (ssize_t)job->program->size ? 0 : got < 0 ? -errno : -EFAULT;

	if (result)
		return result;
	job->failed_op = failed_op(job);
	result = set_mask(job->thread->tid, job->thread->sigmask);
	return result ? result : set_registers(job->thread->tid, job->thread->regs);
}

static int begin(const struct mg_job *job, const struct mg_borrowed *how, unsigned char *frame)
{
	int result;

	relocate(job);
	result = place(job, how, frame);
	return result ? result : start(job, how);
}

/* The first of `quiet` that the thread does not block; 0: it blocks all. */
static int find_quiet(const struct mg_thread *thread, const int *quiet, int quiet_count)
{
	for (int i = 0; i < quiet_count; i++)
		if (!(thread->sigmask >> (quiet[i] - 1) & 1))
			return quiet[i];
	return 0;
}

void mg_make_jobs(struct mg_job *jobs, const struct mg_thread *threads, int count, const struct mg_job *like,
		  unsigned int slot, int slots, const int *own_tids, const int *quiet, int quiet_count)
{
	for (int i = 0; i < count; i++) {
		jobs[i] = *like;
		jobs[i].thread = &threads[i];
		jobs[i].place += (unsigned long long)(i % slots) * slot;
		jobs[i].own_tid = own_tids[i];
		jobs[i].yield_signal = find_quiet(&threads[i], quiet, quiet_count);
		jobs[i].content += (size_t)i * like->program->size;
	}
}

int mg_run_jobs(struct mg_job *jobs, int count, const struct mg_borrowed *how)
{
	unsigned char *frame = malloc(mg_frame_size(how->xstate_size));
	int failed = 0;

	if (!frame)
		return -ENOMEM;
	for (int i = 0; i < count; i++) {
		jobs[i].fatal_signal = 0;
		jobs[i].error = -begin(&jobs[i], how, frame);
	}
	for (int i = 0; i < count; i++)
		if (!jobs[i].error)
			jobs[i].error = -wait_end(&jobs[i]);
	for (int i = 0; i < count; i++) {
		if (!jobs[i].error)
			jobs[i].error = -take_back(&jobs[i]);
		failed += jobs[i].error != 0;
	}
	free(frame);
	return failed;
}
