// SPDX-License-Identifier: Apache-2.0
// The signal frame by which a borrowed thread comes back to itself, for borrow.c and core/tracee/sigframe.py.
#define _GNU_SOURCE
#include <string.h>
#include <sys/user.h>

#include "abi.h"

#include "borrow.h"

#define UC_FLAGS 7	   /* FP_XSTATE | SIGCONTEXT_SS | STRICT_RESTORE_SS */
#define KEEP_ALTSTACK 0x7f /* flags that sigaltstack(2) refuses: sigreturn leaves the stack as it is */
#define FP_XSTATE_MAGIC1 0x46505853U
#define FP_XSTATE_MAGIC2 0x46505845U
#define SOFTWARE_BYTES 464 /* where in the legacy area the kernel's own words begin */
#define LEGACY_SIZE 512
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
