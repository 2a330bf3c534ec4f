// Private huge pages keep their content, their holes and their size; new ones can be had beside them.
// requires: huge-pages
#include "pattern.h"
#include <sys/mman.h>

#define HUGE (2UL << 20)
#define READ_WRITE (PROT_READ | PROT_WRITE)

static bool is_there(char *page)
{
	unsigned char there = 0;

	EQUAL(mincore(page, PAGE, &there), 0);
	return there & 1;
}

int main(int argc, char **argv)
{
	char *pages, *more;

	check_init(argc, argv);
	pages = MUST(mmap(NULL, 4 * HUGE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
	pattern_fill(pages + 3 * PAGE, PAGE, 3);
	pattern_fill(pages + 2 * HUGE - PAGE, 2 * PAGE, 4);
	EQUAL(munmap(pages + 3 * HUGE, HUGE), 0);
	check_ready_and_wait();
	EQUAL(pages[0], 0);
	pattern_check(pages + 3 * PAGE, PAGE, 3);
	pattern_check(pages + 2 * HUGE - PAGE, 2 * PAGE, 4);
	EQUAL(pages[3 * HUGE - 1], 0);
	EQUAL(madvise(pages + HUGE + PAGE, PAGE, MADV_DONTNEED), -1); /* still a huge page */
	EQUAL(madvise(pages + HUGE, HUGE, MADV_DONTNEED), 0);
	CHECK(!is_there(pages + HUGE));
	pages[2 * HUGE - 1] = 1;
	more = MUST(mmap(NULL, HUGE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
	more[0] = 1;
	return check_pass();
}
