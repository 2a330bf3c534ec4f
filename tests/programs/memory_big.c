// 64 MiB of incompressible private memory come through bit by bit.
#include "pattern.h"
#include <sys/mman.h>

#define SIZE (64UL << 20)

int main(int argc, char **argv)
{
	void *memory;

	check_init(argc, argv);
	memory = MUST(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	pattern_fill(memory, SIZE, 1);
	check_ready_and_wait();
	pattern_check(memory, SIZE, 1);
	return check_pass();
}
