// O_PATH descriptors of a file and a directory still only name them.
#include "check.h"
#include <sys/stat.h>

int main(int argc, char **argv)
{
	int file, directory, kept;
	struct stat status;

	check_init(argc, argv);
	kept = MUST(open(in_dir("file"), O_WRONLY | O_CREAT, 0600));
	EQUAL(write(kept, "abc", 3), 3);
	file = MUST(open(in_dir("file"), O_PATH | O_CLOEXEC));
	directory = MUST(open(check_dir, O_PATH | O_DIRECTORY));
	check_ready_and_wait();
	EQUAL(fcntl(file, F_GETFL) & O_PATH, O_PATH);
	EQUAL(fcntl(directory, F_GETFL) & (O_PATH | O_DIRECTORY), O_PATH | O_DIRECTORY);
	EQUAL(fcntl(file, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(directory, F_GETFD), 0);
	MUST(fstat(file, &status));
	EQUAL(status.st_size, 3);
	EQUAL(read(file, &status, 1), -1);
	EQUAL(errno, EBADF);
	MUST(faccessat(directory, "file", F_OK, 0));
	return check_pass();
}
