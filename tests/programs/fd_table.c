// The descriptor table keeps its numbers, its gaps, high numbers and each close-on-exec flag; nothing is added.
#include "check.h"

#define LIMIT 1000

/* The close-on-exec flag of every open number, -1 where there is none. */
static void table_read(int *table)
{
	for (int fd = 0; fd < LIMIT; fd++)
		table[fd] = fcntl(fd, F_GETFD);
}

int main(int argc, char **argv)
{
	static const int numbers[] = {10, 11, 63, 64, 65, 127, 256, 511, 900};
	int before[LIMIT], after[LIMIT], lowest, fd;

	check_init(argc, argv);
	fd = MUST(open(in_dir("file"), O_RDWR | O_CREAT, 0600));
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		MUST(dup3(fd, numbers[i], i % 2 ? O_CLOEXEC : 0));
	MUST(close(MUST(dup(fd))));
	lowest = MUST(dup(fd));
	MUST(close(lowest));
	table_read(before);
	check_ready_and_wait();
	table_read(after);
	for (fd = 0; fd < LIMIT; fd++)
		if (after[fd] != before[fd])
			check_fail("fd %d: flags %d, were %d", fd, after[fd], before[fd]);
	EQUAL(open("/dev/null", O_RDONLY), lowest);
	return check_pass();
}
