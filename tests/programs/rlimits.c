// Every resource limit, soft and hard, is kept, lowered ones too.
#include "check.h"
#include <sys/resource.h>

/* Soft and hard, when they are lower than what we were given. */
static void lower(int resource, rlim_t soft, rlim_t hard)
{
	struct rlimit limit;

	MUST(getrlimit(resource, &limit));
	limit.rlim_max = limit.rlim_max < hard ? limit.rlim_max : hard;
	limit.rlim_cur = limit.rlim_max < soft ? limit.rlim_max : soft;
	MUST(setrlimit(resource, &limit));
}

int main(int argc, char **argv)
{
	struct rlimit before[RLIM_NLIMITS], after;

	check_init(argc, argv);
	lower(RLIMIT_NOFILE, 333, 777);
	lower(RLIMIT_STACK, 3 << 20, 6 << 20);
	lower(RLIMIT_FSIZE, 1UL << 30, 1UL << 31);
	lower(RLIMIT_CPU, 3000, 4000);
	lower(RLIMIT_MEMLOCK, 12345, 65536);
	lower(RLIMIT_AS, 1UL << 40, 1UL << 41);
	for (int i = 0; i < RLIM_NLIMITS; i++)
		MUST(getrlimit(i, &before[i]));
	check_ready_and_wait();
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		MUST(getrlimit(i, &after));
		if (memcmp(&after, &before[i], sizeof(after)))
			check_fail("limit %d is %ld:%ld, was %ld:%ld", i, (long)after.rlim_cur, (long)after.rlim_max,
				   (long)before[i].rlim_cur, (long)before[i].rlim_max);
	}
	return check_pass();
}
