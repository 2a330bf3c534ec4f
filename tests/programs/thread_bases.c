// Every thread keeps its own fs base (thread-local variables) and gs base.
#include "check.h"
#include <asm/prctl.h>
#include <sys/syscall.h>

#define THREADS 4

static __thread long thread_local_value = -1;
static _Atomic int prepared;
static _Atomic bool go;
static long blocks[THREADS];

static void *own_bases(void *argument)
{
	long index = (long)argument, through_gs, base;

	thread_local_value = 1000 + index;
	blocks[index] = 2000 + index;
	MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, &blocks[index]));
	prepared++;
	while (!go)
		check_nap();
	asm volatile("mov %%gs:0, %0" : "=r"(through_gs));
	MUST(syscall(SYS_arch_prctl, ARCH_GET_GS, &base));
	EQUAL(base, (long)&blocks[index]);
	EQUAL(through_gs, 2000 + index);
	EQUAL(thread_local_value, 1000 + index);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];

	check_init(argc, argv);
	for (long i = 0; i < THREADS; i++)
		threads[i] = thread_start(own_bases, (void *)i);
	while (prepared < THREADS)
		check_nap();
	check_ready_and_wait();
	go = true;
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	return check_pass();
}
