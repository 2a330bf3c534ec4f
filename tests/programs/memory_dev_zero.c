// A private mapping of /dev/zero keeps what was stored, and is zero elsewhere.
#include "pattern.h"
#include <sys/mman.h>

int main(int argc, char **argv)
{
	char *memory;
	int fd;

	check_init(argc, argv);
	fd = MUST(open("/dev/zero", O_RDWR));
	memory = MUST(mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	MUST(close(fd));
	pattern_fill(memory + PAGE, 2 * PAGE, 1);
	EQUAL(*(long *)(memory + 4 * PAGE), 0); /* read only */
	check_ready_and_wait();
	pattern_check(memory + PAGE, 2 * PAGE, 1);
	for (int page = 3; page < 8; page++)
		EQUAL(*(long *)(memory + page * PAGE), 0);
	pattern_fill(memory, 8 * PAGE, 2);
	pattern_check(memory, 8 * PAGE, 2);
	return check_pass();
}
