// Packets in a pipe (O_DIRECT) keep their borders.
#include "check.h"

int main(int argc, char **argv)
{
	static const char *const packets[] = {"one", "", "three and more", "4"};
	int ends[2];
	char text[64];

	check_init(argc, argv);
	MUST(pipe2(ends, O_DIRECT | O_CLOEXEC));
	for (int i = 0; i < 4; i++)
		EQUAL(write(ends[1], packets[i], strlen(packets[i])), strlen(packets[i]));
	check_ready_and_wait();
	CHECK(fcntl(ends[1], F_GETFL) & O_DIRECT);
	for (int i = 0; i < 4; i++) {
		if (!*packets[i])
			continue; /* an empty packet is none */
		EQUAL(read(ends[0], text, sizeof(text)), strlen(packets[i]));
		CHECK(memcmp(text, packets[i], strlen(packets[i])) == 0);
	}
	return check_pass();
}
