// Memory that is sealed (mseal) keeps its content, takes writes, and nobody can unmap, move or protect it otherwise.
// requires: mseal
#include "pattern.h"
#include <sys/mman.h>
#include <sys/syscall.h>

#define SIZE (4 * PAGE)
#ifndef SYS_mseal
#define SYS_mseal 462
#endif

enum { WRITABLE, READ_ONLY, MAPPED_FILE, IN_PART, PLAIN, AREAS };

static char *areas[AREAS];

static void seal(char *at, size_t size)
{
	MUST(syscall(SYS_mseal, at, size, 0));
}

static bool is_sealed(char *at)
{
	return mprotect(at, PAGE, PROT_NONE) < 0 && errno == EPERM && munmap(at, PAGE) < 0 && errno == EPERM &&
	       mremap(at, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EPERM;
}

int main(int argc, char **argv)
{
	check_init(argc, argv);
	for (int i = 0; i < AREAS; i++) {
		if (i == MAPPED_FILE)
			areas[i] = MUST(mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE, MUST(open(argv[0], O_RDONLY)), 0));
		else
			areas[i] = MUST(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		if (i != MAPPED_FILE)
			pattern_fill(areas[i], SIZE, i);
	}
	MUST(mprotect(areas[READ_ONLY], SIZE, PROT_READ));
	for (int i = 0; i < IN_PART; i++)
		seal(areas[i], SIZE);
	seal(areas[IN_PART] + PAGE, PAGE);
	check_ready_and_wait();
	for (int i = 0; i < AREAS; i++)
		if (i != MAPPED_FILE)
			pattern_check(areas[i], SIZE, i);
	EQUAL(memcmp(areas[MAPPED_FILE], "\177ELF", 4), 0);
	for (int i = 0; i < IN_PART; i++)
		CHECK(is_sealed(areas[i]) && is_sealed(areas[i] + SIZE - PAGE));
	CHECK(is_sealed(areas[IN_PART] + PAGE));
	areas[WRITABLE][0] = 7;
	EQUAL(areas[WRITABLE][0], 7);
	MUST(munmap(areas[IN_PART], PAGE));
	MUST(munmap(areas[PLAIN], SIZE));
	return check_pass();
}
