// Memory above the 47-bit line, which five levels of page tables allow, keeps its place and content; so does a stack there.
// requires: la57
#include "pattern.h"
#include <sys/mman.h>

#define HIGH ((char *)(1UL << 52))
#define TOP ((char *)((1UL << 56) - 64 * PAGE))
#define READ_WRITE (PROT_READ | PROT_WRITE)

static _Atomic bool stop;

static void *stay(void *unused)
{
	while (!stop)
		check_nap();
	return unused;
}

int main(int argc, char **argv)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
	pthread_attr_t attributes;
	pthread_t thread;
	char *stack, *shared;

	check_init(argc, argv);
	CHECK(MUST(mmap(HIGH, 16 * PAGE, READ_WRITE, flags, -1, 0)) == HIGH);
	CHECK(MUST(mmap(TOP, 8 * PAGE, READ_WRITE, flags, -1, 0)) == TOP);
	shared = MUST(mmap(HIGH + (1UL << 40), PAGE, READ_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	pattern_fill(HIGH + 2 * PAGE, PAGE, 1);
	pattern_fill(TOP, 8 * PAGE, 2);
	pattern_fill(shared, PAGE, 3);
	stack = MUST(mmap(HIGH + (1UL << 30), 64 * PAGE, READ_WRITE, flags, -1, 0));
	EQUAL(pthread_attr_init(&attributes), 0);
	EQUAL(pthread_attr_setstack(&attributes, stack, 64 * PAGE), 0);
	EQUAL(pthread_create(&thread, &attributes, stay, NULL), 0);
	check_ready_and_wait();
	stop = true;
	thread_join(thread);
	pattern_check(HIGH + 2 * PAGE, PAGE, 1);
	pattern_check(TOP, 8 * PAGE, 2);
	pattern_check(shared, PAGE, 3);
	EQUAL(HIGH[0], 0);
	return check_pass();
}
