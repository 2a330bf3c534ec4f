/*
 * The only contract between C and Python: C includes it, cffi reads the same
 * text (core/native/build.py strips the preprocessor lines it does not know).
 * Change anything here and bump MG_ABI_VERSION.
 */
#ifndef MG_ABI_H
#define MG_ABI_H

#define MG_ABI_VERSION 1

/* One syscall of a program that the interpreter blob runs inside a task. */
#define MG_OP_SIZE 72
#define MG_OP_MAY_FAIL 0x100 /* an error result does not stop the program */
/* flags bit i (0..5): args[i] is not a value but the index of an earlier op,
 * relative to this program's first, whose result is taken. */
#define MG_OP_END 0xffffffffffffffffULL /* nr: rt_sigreturn on the current rsp */

struct mg_op {
	unsigned long long nr;
	unsigned long long args[6];
	unsigned long long flags;
	long long result;
};

/* What one stopped thread is, as the tracer sees it. */
#define MG_XSTATE_MAX 12288

struct mg_thread {
	int tid;
	int error;		     /* 0, or errno of the step that failed */
	unsigned long long regs[27]; /* struct user_regs_struct */
	unsigned long long sigmask;
	unsigned long long rseq_address;
	unsigned int rseq_size;
	unsigned int rseq_signature;
	unsigned int rseq_flags;
	unsigned long long rseq_critical_section; /* struct rseq_cs or 0 */
	unsigned int xstate_size;
	unsigned long long robust_head;
	unsigned long long robust_len;
	unsigned char xstate[MG_XSTATE_MAX];
};

/* One page run as PAGEMAP_SCAN reports it: [start, end) and its categories. */
struct mg_page_region {
	unsigned long long start;
	unsigned long long end;
	unsigned long long categories;
};

#endif
