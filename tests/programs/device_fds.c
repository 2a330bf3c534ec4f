// /dev/null, zero, full and urandom are still themselves behind their descriptors.
#include "check.h"
#include <sys/stat.h>

static const char *const paths[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/urandom"};

int main(int argc, char **argv)
{
	char first[32], second[32], zero[32] = "";
	struct stat before[4], after;
	int fds[4];

	check_init(argc, argv);
	for (int i = 0; i < 4; i++) {
		fds[i] = MUST(open(paths[i], O_RDWR));
		MUST(fstat(fds[i], &before[i]));
	}
	check_ready_and_wait();
	for (int i = 0; i < 4; i++) {
		MUST(fstat(fds[i], &after));
		EQUAL(after.st_rdev, before[i].st_rdev);
	}
	EQUAL(read(fds[0], first, 32), 0);
	EQUAL(write(fds[0], first, 32), 32);
	EQUAL(read(fds[1], first, 32), 32);
	CHECK(memcmp(first, zero, 32) == 0);
	EQUAL(write(fds[2], first, 32), -1);
	EQUAL(errno, ENOSPC);
	EQUAL(read(fds[3], first, 32), 32);
	EQUAL(read(fds[3], second, 32), 32);
	CHECK(memcmp(first, second, 32) != 0);
	return check_pass();
}
