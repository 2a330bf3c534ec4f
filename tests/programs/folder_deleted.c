// A deleted directory stays the working directory and an open one, nothing can be made in it; a file of it lives on.
#include "check.h"

#include <sys/stat.h>

int main(int argc, char **argv)
{
	struct stat now, here;
	char text[16];

	check_init(argc, argv);
	MUST(mkdir(in_dir("folder"), 0751));
	int folder = MUST(open(in_dir("folder"), O_RDONLY | O_DIRECTORY));
	MUST(chdir(in_dir("folder")));
	int inside = MUST(open("inside", O_RDWR | O_CREAT, 0600));
	EQUAL(write(inside, "inside", 6), 6);
	MUST(unlink("inside"));
	MUST(rmdir(in_dir("folder")));

	check_ready_and_wait();

	EQUAL(access(in_dir("folder"), F_OK), -1);
	MUST(fstat(folder, &now));
	EQUAL(now.st_mode, S_IFDIR | 0751);
	MUST(stat(".", &here));
	EQUAL(here.st_ino, now.st_ino);
	EQUAL(here.st_nlink, 0);
	EQUAL(open("new", O_RDWR | O_CREAT, 0600), -1);
	EQUAL(errno, ENOENT);
	EQUAL(pread(inside, text, 16, 0), 6);
	CHECK(memcmp(text, "inside", 6) == 0);
	return check_pass();
}
