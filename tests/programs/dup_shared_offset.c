// Duplicated descriptors still share one position and one set of status flags; separately opened ones do not.
#include "check.h"

int main(int argc, char **argv)
{
	int fd, copies[3], own;

	check_init(argc, argv);
	fd = MUST(open(in_dir("file"), O_RDWR | O_CREAT, 0600));
	copies[0] = MUST(dup(fd));
	copies[1] = MUST(dup2(fd, 50));
	copies[2] = MUST(fcntl(fd, F_DUPFD_CLOEXEC, 200));
	own = MUST(open(in_dir("file"), O_RDWR));
	EQUAL(lseek(fd, 33, SEEK_SET), 33);
	EQUAL(lseek(own, 33, SEEK_SET), 33);
	check_ready_and_wait();
	for (int i = 0; i < 3; i++) {
		EQUAL(lseek(copies[i], 0, SEEK_CUR), 33 + i);
		EQUAL(fcntl(copies[i], F_GETFD), i == 2 ? FD_CLOEXEC : 0);
		EQUAL(lseek(copies[i], 1, SEEK_CUR), 34 + i);
	}
	EQUAL(lseek(fd, 0, SEEK_CUR), 36);
	EQUAL(lseek(own, 0, SEEK_CUR), 33);
	MUST(fcntl(copies[1], F_SETFL, O_APPEND));
	EQUAL(fcntl(fd, F_GETFL) & O_APPEND, O_APPEND);
	EQUAL(fcntl(own, F_GETFL) & O_APPEND, 0);
	MUST(close(fd));
	EQUAL(lseek(copies[0], 0, SEEK_CUR), 36);
	return check_pass();
}
