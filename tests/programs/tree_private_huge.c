// A parent and its child have private huge pages in common by fork; each keeps what it has stored to its own.
// requires: huge-pages
#include "shared.h"

#define HUGE (2UL << 20)

static struct shared_control *control;
static char *pages;

static void child(void)
{
	pages[HUGE] = 2;
	control->seen = 1;
	while (!control->stop)
		check_nap();
	EQUAL(pages[0], 1);
	EQUAL(pages[HUGE], 2);
	EQUAL(pages[2 * HUGE], 0);
	pattern_check(pages + HUGE + PAGE, PAGE, 5);
	pages[2 * HUGE] = 7;
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t pid;

	tree_init(argc, argv);
	control = MUST(mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	pages = MUST(mmap(NULL, 3 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
	pages[0] = 1;
	pattern_fill(pages + HUGE + PAGE, PAGE, 5);
	pid = MUST(fork());
	if (pid == 0)
		child();
	while (!control->seen)
		check_nap();
	pages[0] = 3;
	check_ready_and_wait();
	control->stop = 1;
	tree_join(pid);
	EQUAL(pages[0], 3);
	EQUAL(pages[HUGE], 0);
	EQUAL(pages[2 * HUGE], 0);
	pattern_check(pages + HUGE + PAGE, PAGE, 5);
	return check_pass();
}
