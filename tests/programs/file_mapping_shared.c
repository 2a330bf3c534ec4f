// A shared file mapping still is the file: stores reach it, writes to it show, also at an offset and read-only.
#include "pattern.h"
#include <sys/mman.h>

#define PAGES 4

int main(int argc, char **argv)
{
	char contents[PAGES * PAGE], *writable, *readable;
	int fd;

	check_init(argc, argv);
	fd = MUST(open(in_dir("mapped"), O_RDWR | O_CREAT, 0644));
	pattern_fill(contents, sizeof(contents), 1);
	EQUAL(write(fd, contents, sizeof(contents)), sizeof(contents));
	writable = MUST(mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, PAGE));
	MUST(close(fd));
	fd = MUST(open(in_dir("mapped"), O_RDONLY));
	readable = MUST(mmap(NULL, PAGES * PAGE, PROT_READ, MAP_SHARED, fd, 0));
	MUST(close(fd));
	pattern_fill(writable, PAGE, 200);
	check_ready_and_wait();
	pattern_check(writable, PAGE, 200);
	pattern_check(readable + PAGE, PAGE, 200);
	pattern_check(writable + PAGE, PAGE, 1 + 2 * PAGE / 8);
	pattern_fill(writable + 2 * PAGE, PAGE, 300);
	fd = MUST(open(in_dir("mapped"), O_RDWR));
	EQUAL(pread(fd, contents, sizeof(contents), 0), sizeof(contents));
	pattern_check(contents + PAGE, PAGE, 200);
	pattern_check(contents + 3 * PAGE, PAGE, 300);
	EQUAL(pwrite(fd, "fresh", 5, PAGE), 5);
	CHECK(memcmp(writable, "fresh", 5) == 0 && memcmp(readable + PAGE, "fresh", 5) == 0);
	EQUAL(mprotect(readable, PAGE, PROT_READ | PROT_WRITE), -1); /* its file was opened for reading */
	EQUAL(errno, EACCES);
	return check_pass();
}
