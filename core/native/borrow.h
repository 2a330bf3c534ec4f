/* What borrow.c offers to Python: programs run in stopped threads, many at a time. */

/* Upper bound of what mg_build_frame writes. */
int mg_frame_size(int xstate_size);

/* The rt_sigframe for `address` (16-byte aligned), its first word `restorer`, that gives `thread` back to
 * itself by rt_sigreturn on address + 8; a system call that the kernel would
 * restart is made again. Returns its size. */
int mg_build_frame(const struct mg_thread *thread, const struct mg_borrowed *how, unsigned long long address,
		   unsigned long long restorer, unsigned char *frame);

/* A job for each of `count` threads, `like` this one: its place and content are those of the first. `slots` places that
 * are `slot` bytes apart are used again and again. yield_signal is the first of quiet[] that the thread does not
 * block, 0 where there is none. */
void mg_make_jobs(struct mg_job *jobs, const struct mg_thread *threads, int count, const struct mg_job *like,
		  unsigned int slot, int slots, const int *own_tids, const int *quiet, int quiet_count);

/* Run every job and put each thread back as it was, all of them stopped.
 * Returns 0, or how many jobs failed: then any of the threads may run or stand
 * wherever, and the caller recovers them all. */
int mg_run_jobs(struct mg_job *jobs, int count, const struct mg_borrowed *how);

/* The same for threads of one process, whose program has no yields but the last: in fewer calls. */
int mg_run_alike(struct mg_job *jobs, int count, const struct mg_borrowed *how);
