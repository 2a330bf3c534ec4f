// Holes of shared memory stay holes: of 50 MiB, anonymous and memfd, only what was touched is there.
#include "pattern.h"
#include <sys/mman.h>
#include <sys/stat.h>

#define SIZE (50UL << 20)

static long resident(void *memory)
{
	static unsigned char pages[SIZE / PAGE];
	long found = 0;

	EQUAL(mincore(memory, SIZE, pages), 0);
	for (size_t i = 0; i < sizeof(pages); i++)
		found += pages[i] & 1;
	return found;
}

int main(int argc, char **argv)
{
	struct stat made, found;
	char *anonymous, *mapped;
	int fd;

	check_init(argc, argv);
	anonymous = MUST(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	fd = MUST(memfd_create("sparse", 0));
	EQUAL(ftruncate(fd, SIZE), 0);
	mapped = MUST(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	for (int i = 0; i < 3; i++) {
		pattern_fill(anonymous + i * (SIZE / 3) / PAGE * PAGE, PAGE, i);
		pattern_fill(mapped + i * (SIZE / 3) / PAGE * PAGE, PAGE, 10 + i);
	}
	EQUAL(fstat(fd, &made), 0);
	check_ready_and_wait();
	EQUAL(resident(anonymous), 3);
	EQUAL(resident(mapped), 3);
	EQUAL(fstat(fd, &found), 0);
	EQUAL(found.st_blocks, made.st_blocks);
	EQUAL(found.st_size, SIZE);
	for (int i = 0; i < 3; i++) {
		pattern_check(anonymous + i * (SIZE / 3) / PAGE * PAGE, PAGE, i);
		pattern_check(mapped + i * (SIZE / 3) / PAGE * PAGE, PAGE, 10 + i);
	}
	EQUAL(resident(anonymous), 3);
	return check_pass();
}
