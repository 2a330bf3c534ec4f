// A mapping that grows down (MAP_GROWSDOWN) does so afterwards, and keeps its distance from what is below.
#include "pattern.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#define ROOM (4UL << 20)
#define GAP (1UL << 20) /* of vm.stack_guard_gap, 256 pages */

static sigjmp_buf back;

static void on_fault(int number)
{
	siglongjmp(back, number);
}

int main(int argc, char **argv)
{
	const struct sigaction action = {.sa_handler = on_fault};
	char *base, *stack, *below;

	check_init(argc, argv);
	base = MUST(mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	MUST(munmap(base, ROOM));
	below = MUST(mmap(base, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	pattern_fill(below, PAGE, 9);
	stack = MUST(mmap(base + ROOM - 4 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0));
	pattern_fill(stack - 4 * PAGE, 8 * PAGE, 1); /* it grew by four pages */
	check_ready_and_wait();
	pattern_check(stack - 4 * PAGE, 8 * PAGE, 1);
	pattern_fill(stack - 64 * PAGE, 60 * PAGE, 2); /* from the bottom up: by sixty at once */
	pattern_check(stack - 64 * PAGE, 60 * PAGE, 2);
	pattern_check(stack - 4 * PAGE, 8 * PAGE, 1);
	MUST(sigaction(SIGSEGV, &action, NULL));
	if (!sigsetjmp(back, 1)) {
		*(volatile char *)(below + PAGE + GAP / 2) = 1;
		check_fail("it grew into the guard gap");
	}
	pattern_check(below, PAGE, 9);
	return check_pass();
}
