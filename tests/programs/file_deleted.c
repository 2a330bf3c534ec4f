// Deleted files keep content, holes, position and times; two descriptors of one are still one.
#include "check.h"

#include <sys/mman.h>
#include <sys/stat.h>

#define BIG (3 << 20)
#define HOLE (64 << 20)

static int make(const char *name, int flags)
{
	return MUST(open(in_dir(name), flags | O_CREAT | O_EXCL | O_CLOEXEC, 0640));
}

static void check_gone(int fd, const char *name)
{
	struct stat found;

	MUST(fstat(fd, &found));
	EQUAL(found.st_nlink, 0);
	EQUAL(access(in_dir(name), F_OK), -1);
}

static long blocks_of(int fd)
{
	struct stat found;

	MUST(fstat(fd, &found));
	return found.st_blocks;
}

int main(int argc, char **argv)
{
	static char written[BIG], found[BIG];
	const struct timespec times[2] = {{.tv_sec = 1000000001}, {.tv_sec = 1000000002, .tv_nsec = 3000}};
	char text[16];
	struct stat now;

	check_init(argc, argv);
	for (int i = 0; i < BIG; i++)
		written[i] = (char)(i * 7 + i / 4096);
	int big = make("big", O_RDWR);
	EQUAL(write(big, written, BIG), BIG);
	int reader = MUST(open(in_dir("big"), O_RDONLY));
	EQUAL(lseek(reader, 4097, SEEK_SET), 4097);
	MUST(fchmod(big, 0604));
	MUST(futimens(big, times));
	MUST(unlink(in_dir("big")));

	int sparse = make("sparse", O_RDWR | O_APPEND);
	MUST(unlink(in_dir("sparse")));
	EQUAL(pwrite(sparse, "end", 3, 0), 3);
	MUST(ftruncate(sparse, HOLE));
	EQUAL(write(sparse, "after", 5), 5); /* O_APPEND */
	long blocks = blocks_of(sparse);

	int replaced = make("replaced", O_RDWR);
	EQUAL(write(replaced, "old", 3), 3);
	MUST(unlink(in_dir("replaced")));
	int newer = make("replaced", O_RDWR);
	EQUAL(write(newer, "new", 3), 3);

	int nameless = MUST(open(check_dir, O_TMPFILE | O_RDWR, 0600));
	EQUAL(write(nameless, "temporary", 9), 9);

	check_ready_and_wait();

	check_gone(big, "big");
	MUST(fstat(big, &now));
	EQUAL(now.st_mode, S_IFREG | 0604);
	EQUAL(now.st_mtim.tv_sec, 1000000002);
	EQUAL(now.st_mtim.tv_nsec, 3000);
	EQUAL(now.st_size, BIG);
	EQUAL(lseek(big, 0, SEEK_CUR), BIG);
	EQUAL(lseek(reader, 0, SEEK_CUR), 4097);
	EQUAL(pread(big, found, BIG, 0), BIG);
	CHECK(memcmp(written, found, BIG) == 0);
	EQUAL(pwrite(big, "changed", 7, 5000), 7);
	EQUAL(pread(reader, text, 7, 5000), 7);
	CHECK(memcmp(text, "changed", 7) == 0);
	EQUAL(write(reader, "x", 1), -1);

	check_gone(sparse, "sparse");
	CHECK(blocks_of(sparse) <= blocks + 16);
	EQUAL(write(sparse, "more", 4), 4);
	EQUAL(pread(sparse, text, 16, HOLE), 9);
	CHECK(memcmp(text, "aftermore", 9) == 0);
	EQUAL(pread(sparse, text, 4, 0), 4);
	CHECK(memcmp(text, "end", 4) == 0);

	EQUAL(pread(replaced, text, 16, 0), 3);
	CHECK(memcmp(text, "old", 3) == 0);
	EQUAL(pread(newer, text, 16, 0), 3);
	CHECK(memcmp(text, "new", 3) == 0);

	EQUAL(pread(nameless, text, 16, 0), 9);
	CHECK(memcmp(text, "temporary", 9) == 0);
	return check_pass();
}
