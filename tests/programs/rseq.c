// Restartable sequences stay registered in every thread: the kernel goes on writing cpu_id there.
#include "registered.h"

static _Atomic bool go;

static void check_own(void)
{
	check_registered((struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset));
	EQUAL(errno, EBUSY);
}

static void *thread_body(void *unused)
{
	while (!go)
		check_nap();
	check_own();
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t threads[3];

	check_init(argc, argv);
	check_own();
	for (int i = 0; i < 3; i++)
		threads[i] = thread_start(thread_body, NULL);
	check_ready_and_wait();
	check_own();
	go = true;
	for (int i = 0; i < 3; i++)
		thread_join(threads[i]);
	return check_pass();
}
