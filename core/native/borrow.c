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

#define STRAY_STOPS 64
#define ALIGNED(value, to) (((value) + (to)-1) / (to) * (to))

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

/* `sure`: a stop by the yield signal is the program's end, unless what comes back says otherwise. */
static int wait_end(struct mg_job *job, int sure)
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
				result = sure ? 1 : has_ended_its_program(job);
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

static int read_back(const struct mg_job *job)
{
	struct iovec local = {job->content, job->program->size};
	struct iovec remote = {(void *)job->place, job->program->size};
	ssize_t got = process_vm_readv(job->thread->tid, &local, 1, &remote, 1, 0);

	return got == (ssize_t)job->program->size ? 0 : got < 0 ? -errno : -EFAULT;
}

/* What was read back: the thread as it was. */
static int finish(struct mg_job *job)
{
	int result;

	job->failed_op = failed_op(job);
	result = set_mask(job->thread->tid, job->thread->sigmask);
	return result ? result : set_registers(job->thread->tid, job->thread->regs);
}

static int take_back(struct mg_job *job)
{
	int result = read_back(job);

	return result ? result : finish(job);
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
			jobs[i].error = -wait_end(&jobs[i], 0);
	for (int i = 0; i < count; i++) {
		if (!jobs[i].error)
			jobs[i].error = -take_back(&jobs[i]);
		failed += jobs[i].error != 0;
	}
	free(frame);
	return failed;
}

#define PARTS_AT_ONCE 1024 /* UIO_MAXIOV */

/* Copies between us and the process of `tid`, in as few calls as it takes. */
static int copy_parts(int tid, const struct iovec *local, const struct iovec *remote, int count, int into_it)
{
	for (int done = 0; done < count; done += PARTS_AT_ONCE) {
		int many = count - done < PARTS_AT_ONCE ? count - done : PARTS_AT_ONCE;
		ssize_t wanted = 0, copied;

		for (int i = done; i < done + many; i++)
			wanted += local[i].iov_len;
		copied = into_it ? process_vm_writev(tid, local + done, many, remote + done, many, 0)
				 : process_vm_readv(tid, local + done, many, remote + done, many, 0);
		if (copied != wanted)
			return copied < 0 ? -errno : -EFAULT;
	}
	return 0;
}

/* Programs and frames of all jobs into the task. */
static int place_all(const struct mg_job *jobs, int count, const struct mg_borrowed *how, unsigned char *frames,
		     struct iovec *local, struct iovec *remote)
{
	int room = mg_frame_size(how->xstate_size);

	for (int i = 0; i < count; i++) {
		unsigned long long address = frame_address(&jobs[i], how);
		unsigned char *frame = frames + (size_t)i * room;
		size_t size = mg_build_frame(jobs[i].thread, how, address, 0, frame);

		relocate(&jobs[i]);
		local[2 * i] = (struct iovec){jobs[i].content, jobs[i].program->size};
		remote[2 * i] = (struct iovec){(void *)jobs[i].place, jobs[i].program->size};
		local[2 * i + 1] = (struct iovec){frame, size};
		remote[2 * i + 1] = (struct iovec){(void *)address, size};
	}
	return copy_parts(jobs->thread->tid, local, remote, 2 * count, 1);
}

/* Whether what was read back is of a program that came to its end: all ran, or one failed that may not. */
static int is_complete(const struct mg_job *job)
{
	const struct mg_op *ops = (const struct mg_op *)job->content;
	int failed = failed_op(job);

	return failed ? ops[failed - 1].result != LLONG_MIN : ops[job->program->op_count - 1].result != LLONG_MIN;
}

/* A stop by the yield signal was not its own: somebody else sent one. */
static int go_on(struct mg_job *job)
{
	int result = mg_ptrace(PTRACE_CONT, job->thread->tid, 0, 0);

	if (!result)
		result = wait_end(job, 0);
	return result ? result : read_back(job);
}

static void run_placed(struct mg_job *jobs, int count, const struct mg_borrowed *how, struct iovec *local,
		       struct iovec *remote)
{
	int unread;

	for (int i = 0; i < count; i++)
		jobs[i].error = -start(&jobs[i], how);
	for (int i = 0; i < count; i++) {
		if (!jobs[i].error)
			jobs[i].error = -wait_end(&jobs[i], 1);
		local[i] = (struct iovec){jobs[i].content, jobs[i].program->size};
		remote[i] = (struct iovec){(void *)jobs[i].place, jobs[i].program->size};
	}
	unread = copy_parts(jobs->thread->tid, local, remote, count, 0);
	for (int i = 0; i < count; i++) {
		if (!jobs[i].error && unread)
			jobs[i].error = -unread;
		if (!jobs[i].error && !is_complete(&jobs[i]))
			jobs[i].error = -go_on(&jobs[i]);
		if (!jobs[i].error)
			jobs[i].error = -finish(&jobs[i]);
	}
}

int mg_run_alike(struct mg_job *jobs, int count, const struct mg_borrowed *how)
{
	unsigned char *frames = malloc((size_t)count * mg_frame_size(how->xstate_size));
	struct iovec *local = calloc(count, 2 * sizeof(*local)), *remote = calloc(count, 2 * sizeof(*remote));
	int error = frames && local && remote ? 0 : -ENOMEM, failed = 0;

	if (!error)
		error = place_all(jobs, count, how, frames, local, remote);
	for (int i = 0; i < count; i++) {
		jobs[i].fatal_signal = 0;
		jobs[i].error = -error;
	}
	if (!error)
		run_placed(jobs, count, how, local, remote);
	for (int i = 0; i < count; i++)
		failed += jobs[i].error != 0;
	free(frames);
	free(local);
	free(remote);
	return failed;
}
