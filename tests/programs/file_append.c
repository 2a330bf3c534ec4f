// O_APPEND still means the end of the file, wherever the position is and whoever else wrote.
#include "check.h"
#include <sys/stat.h>

int main(int argc, char **argv)
{
	struct stat status;
	char text[10];
	int fd, other;

	check_init(argc, argv);
	fd = MUST(open(in_dir("log"), O_RDWR | O_CREAT | O_APPEND, 0600));
	EQUAL(write(fd, "abc", 3), 3);
	EQUAL(lseek(fd, 1, SEEK_SET), 1);
	check_ready_and_wait();
	EQUAL(lseek(fd, 0, SEEK_CUR), 1);
	other = MUST(open(in_dir("log"), O_WRONLY | O_APPEND));
	EQUAL(write(other, "other", 5), 5);
	EQUAL(write(fd, "de", 2), 2);
	MUST(fstat(fd, &status));
	EQUAL(status.st_size, 10);
	EQUAL(pread(fd, text, 10, 0), 10);
	CHECK(memcmp(text, "abcotherde", 10) == 0);
	return check_pass();
}
