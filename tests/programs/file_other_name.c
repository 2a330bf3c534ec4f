// An open file that lost the name it was opened by, and has another in the same directory; one that was renamed.
#include "check.h"

#include <sys/stat.h>

int main(int argc, char **argv)
{
	struct stat now, named;
	char text[16];

	check_init(argc, argv);
	int fd = MUST(open(in_dir("one"), O_RDWR | O_CREAT | O_EXCL, 0600));
	EQUAL(write(fd, "content", 7), 7);
	MUST(link(in_dir("one"), in_dir("two")));
	MUST(unlink(in_dir("one")));
	int moved = MUST(open(in_dir("before"), O_RDWR | O_CREAT | O_EXCL, 0600));
	MUST(rename(in_dir("before"), in_dir("after")));

	check_ready_and_wait();

	MUST(fstat(fd, &now));
	EQUAL(now.st_nlink, 1);
	MUST(stat(in_dir("two"), &named));
	EQUAL(now.st_ino, named.st_ino);
	EQUAL(access(in_dir("one"), F_OK), -1);
	EQUAL(pread(fd, text, 16, 0), 7);
	MUST(fstat(moved, &now));
	MUST(stat(in_dir("after"), &named));
	EQUAL(now.st_ino, named.st_ino);
	return check_pass();
}
