/*
 * The only contract between C and Python: C includes it, cffi reads the same
 * text (core/native/build.py strips the preprocessor lines it does not know).
 * Change anything here and bump MG_ABI_VERSION.
 */
#ifndef MG_ABI_H
#define MG_ABI_H

#define MG_ABI_VERSION 3

/* One syscall of a program that the interpreter blob runs inside a task. */
#define MG_OP_SIZE 72
#define MG_OP_MAY_FAIL 0x100 /* an error result does not stop the program */
/* flags bit i (0..5): args[i] is not a value but the index of an earlier op,
 * relative to this program's first, whose result is taken. */
/* flags bit 16 + i: args[i] is not a value but the address of 32 bits, which
 * are loaded with their sign when the op runs. Bit 24 + i: 64 bits. */
#define MG_OP_END 0xffffffffffffffffULL /* nr: rt_sigreturn on the current rsp */

struct mg_op {
	unsigned long long nr;
	unsigned long long args[6];
	unsigned long long flags;
	long long result;
};

/* What one stopped thread is, as the tracer sees it. */

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
	unsigned char *xstate; /* the caller's room for it */
};

/* A program for no address yet: what the interpreter blob needs to run it. */
struct mg_program {
	const unsigned char *content;
	unsigned int size;
	unsigned int op_count;
	const unsigned int *addresses; /* offsets of words that count from the program's own start */
	unsigned int address_count;
	const unsigned int *yields; /* indexes of ops that report to the tracer */
	unsigned int yield_count;
};

/* A program to be run in a stopped thread. */
struct mg_job {
	const struct mg_thread *thread;
	const struct mg_program *program;
	unsigned long long code;  /* the blob, in the task */
	unsigned long long place; /* where the program lies in the task, the frame behind it */
	int own_tid;		  /* what the thread calls itself */
	int yield_signal;
	int error;		/* 0, or errno of what failed */
	int fatal_signal;	/* that it met instead of coming back */
	int failed_op;		/* 1 + index of the first op that failed and may not, or did not run; 0: none */
	unsigned char *content; /* the caller's room: what came back */
};

/* Where and how programs run in a task. */
struct mg_borrowed {
	unsigned long long xfeatures; /* that a frame announces */
	unsigned int xstate_size;     /* that a frame holds, at most */
	unsigned int stack_room;
};

/* What of a thread can be asked by its tid. */
#define MG_AFFINITY_MAX 1024

struct mg_facts {
	int tid;
	int error;
	int policy; /* as of sched_getscheduler(2) */
	int nice;
	int priority;
	int io_priority;
	int has_io_ports;
	int affinity_size;
	unsigned long long sched_flags;
	unsigned long long runtime_ns;
	unsigned long long deadline_ns;
	unsigned long long period_ns;
	unsigned char affinity[MG_AFFINITY_MAX];
};

/* Where in a buffer something lies; size < 0: -errno. */
struct mg_slice {
	long long start;
	long long size;
};

/* One page run as PAGEMAP_SCAN reports it: [start, end) and its categories. */
struct mg_page_region {
	unsigned long long start;
	unsigned long long end;
	unsigned long long categories;
};

#endif
