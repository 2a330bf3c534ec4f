/* What kernel.c offers to Python. Every function returns >= 0, or -errno. */

/* syscall(2) without errno: result or -errno. */
long mg_syscall(long nr, unsigned long long a, unsigned long long b, unsigned long long c, unsigned long long d,
		unsigned long long e, unsigned long long f);

/* ptrace(2) without the glibc quirks: result or -errno. */
long mg_ptrace(long request, int tid, unsigned long long address, unsigned long long data);

/* waitpid(tid, __WALL | __WNOTHREAD | flags): tid, 0 with WNOHANG, -errno. */
int mg_wait(int tid, int flags, int *status);

/* Attach and stop every tid: SEIZE with `options`, INTERRUPT, wait for the stop. errors[i] is 0 or -errno (-ESRCH: has
 * exited; -ETIMEDOUT: does not stop and stays attached until we end). Returns since when not all of them run, in
 * microseconds of CLOCK_MONOTONIC. */
long long mg_stop_threads(const int *tids, int count, unsigned long options, int timeout_ms, int *errors);

/* What ptrace tells of stopped threads of one process, into cleared `threads` and `xstates`, of which each has
 * `xstate_room` bytes. Returns how many could not be read: their error says why. */
int mg_read_threads(const int *tids, int count, struct mg_thread *threads, unsigned char *xstates,
		    unsigned int xstate_room);

/* Indexes of threads that show traces of a stop: inside an rseq critical section,
 * a call that ended with EINTR, or restart_syscall(2). Returns how many. */
int mg_find_disturbed(const struct mg_thread *threads, int count, int *indexes);

/* Indexes of threads whose instruction pointer is in [start, end). Returns how many. */
int mg_find_inside(const struct mg_thread *threads, int count, unsigned long start, unsigned long end, int *indexes);

/* Put registers, xstate and signal mask into ptrace-stopped threads: 0, or -errno for threads[*failed]. */
int mg_write_threads(const struct mg_thread *threads, int count, int *failed);

/* PTRACE_DETACH every tid; errors are ignored (the thread is gone). */
int mg_detach_threads(const int *tids, int count, int *errors);

/*
 * A new process running the file `exe_fd` with nothing but a name: no
 * environment, no descriptors, default signal handling; as pid set_tid[0] in
 * its pid namespace (set_tid[1] in the one outside, and so on); set_tid_count 0: any
 * pid. cgroup_fd, mount_ns_fd < 0: ours. Returns its pid as we see it.
 */
int mg_spawn(int exe_fd, const int *set_tid, int set_tid_count, int cgroup_fd, int mount_ns_fd,
	     unsigned long long clone_flags);

/*
 * The same in a new time namespace; `offsets` as for /proc/PID/timens_offsets.
 * -EAGAIN: a process that lived for a moment took the pid; try again.
 */
int mg_spawn_in_time(int exe_fd, const int *set_tid, int set_tid_count, int cgroup_fd, int mount_ns_fd,
		     unsigned long long clone_flags, const char *offsets);

/* The blob that runs a program: text and its length. */
const unsigned char *mg_blob(void);
int mg_blob_size(void);

/* XCR0 and, for xsave component i, where it lies in the standard format. */
unsigned long long mg_xcr0(void);
int mg_xsave_component(int component, unsigned int *offset, unsigned int *size);
