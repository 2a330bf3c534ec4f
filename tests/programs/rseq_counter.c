// A restartable sequence that a stop falls into is aborted: plain per-CPU counters lose no increment.
// tags: live
#include "check.h"
#include <sys/rseq.h>

#define THREADS 4

static long counters[1024];
static _Atomic long total;
static _Atomic bool stop;

/* Adds 1 to the counter of the CPU it runs on; false when it was interrupted on the way. */
static bool try_add(struct rseq *area)
{
	asm goto(".pushsection __rseq_cs, \"aw\"; .balign 32\n"
		 "3: .long 0, 0; .quad 1f, 2f - 1f, 4f; .popsection\n"
		 "lea 3b(%%rip), %%rax; mov %%rax, 8(%[area])\n"
		 "1: mov 4(%[area]), %%eax; mov (%[counters], %%rax, 8), %%rdx; mov $300, %%ecx\n"
		 "5: loop 5b\n"
		 "inc %%rdx; mov %%rdx, (%[counters], %%rax, 8)\n"
		 "2: .pushsection __rseq_abort, \"ax\"; .byte 0x0f, 0xb9, 0x3d; .long 0x53053053\n"
		 "4: jmp %l[aborted]; .popsection\n"
		 :
		 : [area] "r"(area), [counters] "r"(counters)
		 : "rax", "rcx", "rdx", "memory", "cc"
		 : aborted);
	return true;
aborted:
	return false;
}

static void *add_until_stop(void *unused)
{
	struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	while (!stop)
		total += try_add(area);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];
	long sum = 0;

	check_init(argc, argv);
	for (int i = 0; i < THREADS; i++)
		threads[i] = thread_start(add_until_stop, NULL);
	check_ready_and_wait();
	stop = true;
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	for (int cpu = 0; cpu < 1024; cpu++)
		sum += counters[cpu];
	CHECK(sum > 0);
	EQUAL(sum, total);
	return check_pass();
}
