// Many full pipes at once: together they hold more than fits into one program of a restore.
#include "pattern.h"

#define PIPES 6
#define SIZE (1 << 20)

int main(int argc, char **argv)
{
	static uint64_t words[SIZE / 8];
	int fds[PIPES][2];

	check_init(argc, argv);
	for (int i = 0; i < PIPES; i++) {
		MUST(pipe2(fds[i], O_CLOEXEC | O_NONBLOCK));
		EQUAL(fcntl(fds[i][1], F_SETPIPE_SZ, SIZE), SIZE);
		pattern_fill(words, sizeof(words), i + 1);
		EQUAL(write(fds[i][1], words, SIZE), SIZE);
	}
	check_ready_and_wait();
	for (int i = 0; i < PIPES; i++) {
		EQUAL(write(fds[i][1], "x", 1), -1);
		memset(words, 0, sizeof(words));
		EQUAL(read(fds[i][0], words, SIZE), SIZE);
		pattern_check(words, SIZE, i + 1);
	}
	return check_pass();
}
