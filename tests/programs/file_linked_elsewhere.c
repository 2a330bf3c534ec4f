// An open file that lost its name and has another one somewhere else keeps being that file.
// dump: --link-remap
#include "check.h"

#include <sys/stat.h>

int main(int argc, char **argv)
{
	struct stat now, named;
	char text[16];

	check_init(argc, argv);
	MUST(mkdir(in_dir("elsewhere"), 0755));
	int fd = MUST(open(in_dir("one"), O_RDWR | O_CREAT | O_EXCL, 0600));
	EQUAL(write(fd, "content", 7), 7);
	MUST(link(in_dir("one"), in_dir("elsewhere/two")));
	MUST(unlink(in_dir("one")));

	check_ready_and_wait();

	EQUAL(access(in_dir("one"), F_OK), -1);
	MUST(fstat(fd, &now));
	MUST(stat(in_dir("elsewhere/two"), &named));
	EQUAL(now.st_ino, named.st_ino);
	EQUAL(pread(fd, text, 16, 0), 7);
	return check_pass();
}
