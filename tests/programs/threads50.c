// Fifty threads verify their own memory and arithmetic all the time, and never find an error.
// tags: live
#include "pattern.h"

#define THREADS 50
#define SIZE (128 * 1024UL)

static _Atomic bool stop;
static _Atomic long rounds[THREADS];

/* Integer and floating point: sum of 1..n and of halves, both known in closed form. */
static void verify_arithmetic(long n)
{
	double halves = 0;
	long sum = 0;

	for (long i = 1; i <= n; i++) {
		sum += i;
		halves += i * 0.5;
	}
	EQUAL(sum, n * (n + 1) / 2);
	CHECK(halves == n * (n + 1) / 4.0);
}

static void *verify_until_stop(void *argument)
{
	long index = (long)argument;
	uint64_t *memory = MUST(aligned_alloc(PAGE, SIZE)), seed = index << 32;

	pattern_fill(memory, SIZE, seed);
	while (!stop) {
		pattern_check(memory, SIZE, seed);
		pattern_fill(memory, SIZE, seed += SIZE);
		verify_arithmetic(2000 + index);
		rounds[index]++;
		if (index >= 2) /* two never rest */
			check_nap();
	}
	free(memory);
	return NULL;
}

static void wait_for_rounds(long count)
{
	for (int i = 0; i < THREADS; i++)
		while (rounds[i] < count)
			check_nap();
}

int main(int argc, char **argv)
{
	pthread_t threads[THREADS];

	check_init(argc, argv);
	for (long i = 0; i < THREADS; i++)
		threads[i] = thread_start(verify_until_stop, (void *)i);
	wait_for_rounds(1); /* each has its memory: the mappings stay as they are */
	check_ready_and_wait();
	for (int i = 0; i < THREADS; i++)
		rounds[i] = 0;
	wait_for_rounds(2);
	stop = true;
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	return check_pass();
}
