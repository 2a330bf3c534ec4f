// Advice, locks and guard pages of mappings are given again, over contents that are what they were.
#include "pattern.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#define SIZE (8 * PAGE)
#define GUARD_INSTALL 102 /* MADV_GUARD_INSTALL, Linux 6.13 */

static const struct {
	const char *flag; /* of smaps */
	int advice;
} marks[] = {{"dc", MADV_DONTFORK},   {"mg", MADV_MERGEABLE}, {"hg", MADV_HUGEPAGE},
	     {"nh", MADV_NOHUGEPAGE}, {"dd", MADV_DONTDUMP},  {"wf", MADV_WIPEONFORK}};

enum { MARKS = sizeof(marks) / sizeof(*marks), LOCKED = MARKS, ON_FAULT, NO_ACCESS, PLAIN, AREAS };

static char *areas[AREAS];
static sigjmp_buf back;

static void on_fault(int number)
{
	siglongjmp(back, number);
}

static bool faults(volatile char *at)
{
	if (sigsetjmp(back, 1))
		return true;
	(void)*at;
	return false;
}

/* The VmFlags of the mapping that begins at `at`, with a blank on either side of each. */
static char *flags_at(const char *at)
{
	static char line[4096];
	char start[32];
	bool here = false;
	FILE *smaps = fopen("/proc/self/smaps", "r");

	CHECK(smaps);
	snprintf(start, sizeof(start), "%lx-", (unsigned long)at);
	while (fgets(line, sizeof(line), smaps)) {
		here = here || strncmp(line, start, strlen(start)) == 0;
		if (here && strncmp(line, "VmFlags:", 8) == 0)
			break;
	}
	CHECK(fclose(smaps) == 0 && here);
	return line;
}

static bool has(const char *at, const char *flag)
{
	char word[8];

	snprintf(word, sizeof(word), " %s ", flag);
	return strstr(flags_at(at), word);
}

static char *map(void)
{
	char *area = MUST(mmap(NULL, 3 * SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) + SIZE;

	MUST(mprotect(area, SIZE, PROT_READ | PROT_WRITE));
	return area;
}

static void check_marks(int area)
{
	for (int mark = 0; mark < MARKS; mark++)
		if (has(areas[area], marks[mark].flag) != (area == mark))
			check_fail("area %d has \"%s\", mark %d", area, flags_at(areas[area]), mark);
	EQUAL(has(areas[area], "lo"), area == LOCKED || area == ON_FAULT || area == NO_ACCESS);
	EQUAL(has(areas[area], "lf"), area == ON_FAULT);
}

int main(int argc, char **argv)
{
	const struct sigaction action = {.sa_handler = on_fault};
	bool guarded;

	check_init(argc, argv);
	for (int i = 0; i < AREAS; i++) {
		areas[i] = map();
		pattern_fill(areas[i] + PAGE, 3 * PAGE, i);
		if (i < MARKS)
			MUST(madvise(areas[i], SIZE, marks[i].advice));
	}
	MUST(mlock(areas[LOCKED], SIZE));
	MUST(mlock2(areas[ON_FAULT], SIZE, MLOCK_ONFAULT));
	MUST(mprotect(areas[NO_ACCESS], SIZE, PROT_NONE));
	CHECK(mlock(areas[NO_ACCESS], SIZE) == -1 && errno == ENOMEM); /* locked all the same */
	guarded = madvise(areas[PLAIN] + 2 * PAGE, PAGE, GUARD_INSTALL) == 0;
	for (int i = 0; i < AREAS; i++)
		check_marks(i);
	check_ready_and_wait();
	for (int i = 0; i < AREAS; i++)
		check_marks(i);
	MUST(mprotect(areas[NO_ACCESS], SIZE, PROT_READ));
	MUST(sigaction(SIGSEGV, &action, NULL));
	if (guarded) {
		CHECK(faults(areas[PLAIN] + 2 * PAGE));
		CHECK(!faults(areas[PLAIN] + PAGE) && !faults(areas[PLAIN] + 3 * PAGE));
		MUST(madvise(areas[PLAIN] + 2 * PAGE, PAGE, GUARD_INSTALL + 1));
		EQUAL(*(long *)(areas[PLAIN] + 2 * PAGE), 0); /* installing it had dropped the page */
		pattern_fill(areas[PLAIN] + PAGE, 3 * PAGE, PLAIN);
	}
	for (int i = 0; i < AREAS; i++)
		pattern_check(areas[i] + PAGE, 3 * PAGE, i);
	return check_pass();
}
