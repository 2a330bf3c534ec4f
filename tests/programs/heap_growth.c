// The heap keeps its contents and its end, and grows from there.
#include "pattern.h"

#define SIZE (1UL << 20)

int main(int argc, char **argv)
{
	void *block, *own, *end, *grown;

	check_init(argc, argv);
	block = malloc(SIZE / 16); /* small enough to come from the heap */
	pattern_fill(block, SIZE / 16, 1);
	own = MUST(sbrk(SIZE));
	pattern_fill(own, SIZE, 2);
	end = MUST(sbrk(0));
	check_ready_and_wait();
	EQUAL((long)MUST(sbrk(0)), (long)end);
	pattern_check(block, SIZE / 16, 1);
	pattern_check(own, SIZE, 2);
	grown = MUST(sbrk(SIZE));
	EQUAL((long)grown, (long)end);
	pattern_fill(grown, SIZE, 3);
	pattern_check(grown, SIZE, 3);
	MUST(sbrk(-(long)SIZE));
	free(block);
	free(malloc(SIZE / 8));
	return check_pass();
}
