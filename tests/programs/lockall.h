/* What mlockall(2) does to mappings there are and to those to come. */
#ifndef LOCKALL_H
#define LOCKALL_H

#include "pattern.h"
#include <sys/mman.h>
#include <sys/resource.h>

static char *lockall_map(void)
{
	return MUST(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

/* Whether the mapping that has `at` in it has the flag. */
static bool lockall_has(const char *at, const char *flag)
{
	char line[4096], word[8];
	unsigned long start, end;
	bool here = false;
	FILE *smaps = fopen("/proc/self/smaps", "r");

	CHECK(smaps);
	snprintf(word, sizeof(word), " %s ", flag);
	while (fgets(line, sizeof(line), smaps)) {
		if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
			here = start <= (unsigned long)at && (unsigned long)at < end;
		if (here && strncmp(line, "VmFlags:", 8) == 0)
			break;
	}
	CHECK(fclose(smaps) == 0 && here);
	return strstr(line, word);
}

static int run_lockall(int argc, char **argv, int flags, const char *flag)
{
	unsigned char in_core;
	char *before, *after;

	check_init(argc, argv);
	before = lockall_map();
	pattern_fill(before, 2 * PAGE, 1);
	MUST(mlockall(flags));
	check_ready_and_wait();
	CHECK(lockall_has(before, flag) && lockall_has(before, "lo"));
	pattern_check(before, 2 * PAGE, 1);
	after = lockall_map();
	CHECK(lockall_has(after, flag) && lockall_has(after, "lo"));
	EQUAL(lockall_has(after, "lf"), !!(flags & MCL_ONFAULT));
	MUST(mincore(after, PAGE, &in_core));
	EQUAL(in_core & 1, !(flags & MCL_ONFAULT));
	MUST(munlockall());
	CHECK(!lockall_has(lockall_map(), "lo"));
	return check_pass();
}

#endif
