// Shared anonymous memory stays shared, both ways, while it is written; also what only the child still maps, in parts.
#include "shared.h"

static struct shared_control *control;
static char *pages, *inherited;

static void *make(size_t size)
{
	return MUST(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

static void child(void)
{
	EQUAL(munmap(inherited, PAGE), 0); // only its second half is left anywhere
	shared_write(control, pages);
	pattern_check(inherited + PAGE, PAGE, 7);
	EQUAL(control->seen, 4711);
	shared_store(pages, 0, -1);
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t pid;

	tree_init(argc, argv);
	control = make(sizeof(*control));
	pages = make(SHARED_PAGES * PAGE);
	inherited = make(2 * PAGE);
	pattern_fill(inherited + PAGE, PAGE, 7);
	pid = MUST(fork());
	if (pid == 0)
		child();
	EQUAL(munmap(inherited, 2 * PAGE), 0);
	EQUAL(shared_mappings("/dev/zero (deleted)"), 2);
	shared_move(control);
	control->seen = 4711;
	control->stop = 1;
	tree_join(pid);
	shared_check(pages, 0, -1);
	EQUAL(shared_mappings("/dev/zero (deleted)"), 2);
	return check_pass();
}
