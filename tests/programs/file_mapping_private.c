// In a private file mapping stored pages are the process's own, and the others are still the file's.
#include "pattern.h"
#include <sys/mman.h>

#define PAGES 8

int main(int argc, char **argv)
{
	char contents[PAGES * PAGE], *mapping;
	int fd;

	check_init(argc, argv);
	fd = MUST(open(in_dir("mapped"), O_RDWR | O_CREAT, 0644));
	pattern_fill(contents, sizeof(contents), 1);
	EQUAL(write(fd, contents, sizeof(contents)), sizeof(contents));
	mapping = MUST(mmap(NULL, sizeof(contents), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	pattern_check(mapping + 6 * PAGE, PAGE, 1 + 6 * PAGE / 8); /* read, not stored */
	for (int page = 0; page < PAGES; page += 2)
		pattern_fill(mapping + page * PAGE, PAGE, 100 + page);
	MUST(close(fd));
	check_ready_and_wait();
	for (int page = 0; page < PAGES; page++)
		pattern_check(mapping + page * PAGE, PAGE, page % 2 ? 1 + page * PAGE / 8 : 100UL + page);
	fd = MUST(open(in_dir("mapped"), O_RDWR));
	EQUAL(pread(fd, contents, sizeof(contents), 0), sizeof(contents));
	pattern_check(contents, sizeof(contents), 1); /* the stores never reached the file */
	EQUAL(pwrite(fd, "fresh", 5, 3 * PAGE), 5);
	CHECK(memcmp(mapping + 3 * PAGE, "fresh", 5) == 0);
	return check_pass();
}
