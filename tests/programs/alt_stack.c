// Every thread keeps its alternate signal stack, and a handler runs on it.
#include "check.h"
#include <signal.h>

#define THREADS 3
#define SIZE (64 * 1024UL)

static char stacks[THREADS][SIZE];
static __thread char *ran_at;
static _Atomic int prepared;
static _Atomic bool go;

static void on_signal(int number)
{
	char here = (char)number;

	asm volatile("" : : "r"(&here) : "memory");
	ran_at = __builtin_frame_address(0);
}

static void *keep_stack(void *argument)
{
	long index = (long)argument;
	stack_t own = {.ss_sp = stacks[index], .ss_size = SIZE - index * 4096}, kept;

	MUST(sigaltstack(&own, NULL));
	prepared++;
	while (!go)
		check_nap();
	MUST(sigaltstack(NULL, &kept));
	EQUAL((long)kept.ss_sp, (long)own.ss_sp);
	EQUAL(kept.ss_size, own.ss_size);
	EQUAL(kept.ss_flags, 0);
	EQUAL(pthread_kill(pthread_self(), SIGUSR1), 0);
	CHECK(ran_at > stacks[index] && ran_at < stacks[index] + SIZE);
	return NULL;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_ONSTACK};
	pthread_t threads[THREADS];

	check_init(argc, argv);
	MUST(sigaction(SIGUSR1, &action, NULL));
	for (long i = 0; i < THREADS; i++)
		threads[i] = thread_start(keep_stack, (void *)i);
	while (prepared < THREADS)
		check_nap();
	check_ready_and_wait();
	go = true;
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	return check_pass();
}
