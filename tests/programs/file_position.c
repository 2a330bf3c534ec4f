// Open files keep position, flags and access mode, and each of them its own position.
#include "check.h"
#include <sys/stat.h>

static const struct {
	int flags;
	off_t position;
} opens[] = {
	{O_RDONLY, 100},
	{O_RDONLY, 0},
	{O_WRONLY | O_NONBLOCK, 5},
	{O_RDWR | O_NOATIME | O_SYNC, 4711}, /* past the end */
	{O_RDWR | O_DSYNC, 5L << 32},
};

#define COUNT (sizeof(opens) / sizeof(*opens))

int main(int argc, char **argv)
{
	int fds[COUNT], flags[COUNT];
	char text[256], byte;
	struct stat of_path, of_fd;

	check_init(argc, argv);
	for (int i = 0; i < 256; i++)
		text[i] = (char)i;
	fds[0] = MUST(open(in_dir("file"), O_WRONLY | O_CREAT, 0640));
	EQUAL(write(fds[0], text, 256), 256);
	MUST(close(fds[0]));
	for (size_t i = 0; i < COUNT; i++) {
		fds[i] = MUST(open(in_dir("file"), opens[i].flags));
		EQUAL(lseek(fds[i], opens[i].position, SEEK_SET), opens[i].position);
		flags[i] = MUST(fcntl(fds[i], F_GETFL));
	}
	check_ready_and_wait();
	MUST(stat(in_dir("file"), &of_path));
	for (size_t i = 0; i < COUNT; i++) {
		EQUAL(fcntl(fds[i], F_GETFL), flags[i]);
		EQUAL(lseek(fds[i], 0, SEEK_CUR), opens[i].position);
		MUST(fstat(fds[i], &of_fd));
		EQUAL(of_fd.st_ino, of_path.st_ino);
	}
	EQUAL(read(fds[0], &byte, 1), 1);
	EQUAL((unsigned char)byte, 100);
	EQUAL(lseek(fds[1], 0, SEEK_CUR), 0);
	EQUAL(write(fds[2], "x", 1), 1);
	EQUAL(pread(fds[0], &byte, 1, 5), 1);
	EQUAL(byte, 'x');
	EQUAL(write(fds[0], "x", 1), -1);
	EQUAL(errno, EBADF);
	return check_pass();
}
