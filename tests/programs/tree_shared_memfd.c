// A memfd is written by descriptor and by mappings that are gone at once, by a child that shares it: no store is lost.
#include "shared.h"

static struct shared_control *control;
static int fd;

static void *map(size_t size)
{
	return MUST(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
}

/* Stores by write(2) and by mappings that are gone at once. */
static void child(void)
{
	long times[SHARED_PAGES] = {0}, round = 0;
	char page[PAGE];

	close(tree_gate[1]);
	EQUAL(write(tree_met[1], "+", 1), 1);
	while (!control->stop) {
		long number = (long)(pattern_word(round) % (SHARED_PAGES - 1)) + 1;

		times[number]++;
		if (round % 2) {
			memset(page, 0, sizeof(page));
			shared_store(page, number, times[number]);
			EQUAL(pwrite(fd, page, PAGE, number * PAGE), PAGE);
		} else {
			char *all = map(SHARED_PAGES * PAGE);

			shared_store(all + number * PAGE, number, times[number]);
			EQUAL(munmap(all, SHARED_PAGES * PAGE), 0);
		}
		control->rounds = ++round;
	}
	for (long number = 1; number < SHARED_PAGES; number++) {
		EQUAL(pread(fd, page, PAGE, number * PAGE), PAGE);
		if (times[number])
			shared_check(page, number, times[number]);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t pid;

	tree_init(argc, argv);
	fd = MUST(memfd_create("written", MFD_CLOEXEC));
	EQUAL(ftruncate(fd, SHARED_PAGES * PAGE), 0);
	control = map(PAGE);
	pid = MUST(fork());
	if (pid == 0)
		child();
	shared_move(control);
	control->stop = 1;
	tree_join(pid);
	EQUAL(shared_mappings("/memfd:written (deleted)"), 1);
	EQUAL(fcntl(fd, F_GET_SEALS), F_SEAL_SEAL);
	EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
	return check_pass();
}
