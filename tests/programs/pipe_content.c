// Bytes lying in a pipe come out after the move, in order, and each end keeps its own flags.
#include "pattern.h"
#include <sys/ioctl.h>

int main(int argc, char **argv)
{
	uint64_t words[128];
	int fds[2], copy, unread;

	check_init(argc, argv);
	MUST(pipe2(fds, O_CLOEXEC));
	copy = MUST(dup(fds[1]));
	MUST(fcntl(fds[0], F_SETFL, O_NONBLOCK));
	pattern_fill(words, sizeof(words), 1);
	EQUAL(write(fds[1], words, 800), 800);
	EQUAL(write(copy, words + 100, 224), 224);
	EQUAL(read(fds[0], words, 80), 80);
	check_ready_and_wait();
	MUST(ioctl(fds[0], FIONREAD, &unread));
	EQUAL(unread, 1024 - 80);
	EQUAL(fcntl(fds[0], F_GETFL), O_RDONLY | O_NONBLOCK);
	EQUAL(fcntl(fds[1], F_GETFL), O_WRONLY);
	EQUAL(fcntl(fds[1], F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(copy, F_GETFD), 0);
	memset(words, 0, sizeof(words));
	EQUAL(read(fds[0], words, sizeof(words)), 1024 - 80);
	pattern_check(words, 1024 - 80, 1 + 10);
	EQUAL(read(fds[0], words, 1), -1);
	EQUAL(errno, EAGAIN);
	EQUAL(write(copy, "x", 1), 1);
	EQUAL(read(fds[0], words, 2), 1);
	return check_pass();
}
