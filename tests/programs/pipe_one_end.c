// A pipe whose writer is gone gives the rest and then its end; one whose reader is gone stays broken.
#include "check.h"
#include <signal.h>

int main(int argc, char **argv)
{
	int no_writer[2], no_reader[2];
	char text[8];

	check_init(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	MUST(pipe(no_writer));
	MUST(pipe(no_reader));
	EQUAL(write(no_writer[1], "rest", 4), 4);
	MUST(close(no_writer[1]));
	MUST(close(no_reader[0]));
	check_ready_and_wait();
	EQUAL(read(no_writer[0], text, sizeof(text)), 4);
	CHECK(memcmp(text, "rest", 4) == 0);
	EQUAL(read(no_writer[0], text, sizeof(text)), 0);
	EQUAL(write(no_reader[1], "x", 1), -1);
	EQUAL(errno, EPIPE);
	return check_pass();
}
