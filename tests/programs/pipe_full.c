// A pipe filled to the brim is still full, and every byte of it comes out.
#include "pattern.h"

static char contents[64 * 1024];

int main(int argc, char **argv)
{
	size_t filled = 0;
	ssize_t size_bytes;
	int fds[2];

	check_init(argc, argv);
	MUST(pipe2(fds, O_NONBLOCK));
	pattern_fill(contents, sizeof(contents), 1);
	while (filled < sizeof(contents) && (size_bytes = write(fds[1], contents + filled, 4096)) > 0)
		filled += size_bytes;
	EQUAL(filled, fcntl(fds[1], F_GETPIPE_SZ));
	check_ready_and_wait();
	EQUAL(fcntl(fds[1], F_GETPIPE_SZ), filled);
	EQUAL(write(fds[1], "x", 1), -1);
	EQUAL(errno, EAGAIN);
	memset(contents, 0, sizeof(contents));
	for (size_t drained = 0; drained < filled; drained += size_bytes)
		size_bytes = MUST(read(fds[0], contents + drained, filled - drained));
	pattern_check(contents, filled, 1);
	EQUAL(write(fds[1], contents, 4096), 4096);
	return check_pass();
}
