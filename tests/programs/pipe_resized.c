// A pipe made larger or smaller than usual keeps its size and what it holds.
#include "pattern.h"

static char contents[200 * 1024];

int main(int argc, char **argv)
{
	int large[2], small[2];

	check_init(argc, argv);
	MUST(pipe(large));
	MUST(pipe(small));
	EQUAL(fcntl(large[0], F_SETPIPE_SZ, 256 * 1024), 256 * 1024);
	EQUAL(fcntl(small[0], F_SETPIPE_SZ, 4096), 4096);
	pattern_fill(contents, sizeof(contents), 1);
	EQUAL(write(large[1], contents, sizeof(contents)), sizeof(contents));
	check_ready_and_wait();
	EQUAL(fcntl(large[1], F_GETPIPE_SZ), 256 * 1024);
	EQUAL(fcntl(small[1], F_GETPIPE_SZ), 4096);
	memset(contents, 0, sizeof(contents));
	EQUAL(read(large[0], contents, sizeof(contents)), sizeof(contents));
	pattern_check(contents, sizeof(contents), 1);
	return check_pass();
}
