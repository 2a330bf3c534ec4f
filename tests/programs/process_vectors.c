// Arguments, environment, auxiliary vector and executable read as before through /proc.
// args: one "two three" ''
#include "snapshot.h"
#include <sys/auxv.h>

static const char *const paths[] = {"/proc/self/cmdline", "/proc/self/environ", "/proc/self/auxv"};

int main(int argc, char **argv)
{
	struct snapshot *before[3];
	char exe_before[PATH_MAX] = "", exe_after[PATH_MAX] = "";
	unsigned char random_before[16];

	check_init(argc, argv);
	EQUAL(argc, 5);
	for (int i = 0; i < 3; i++)
		before[i] = snapshot_take(paths[i]);
	memcpy(random_before, (void *)getauxval(AT_RANDOM), 16);
	MUST(readlink("/proc/self/exe", exe_before, PATH_MAX - 1));
	check_ready_and_wait();
	for (int i = 0; i < 3; i++)
		snapshot_check_same(before[i], paths[i]);
	CHECK(memcmp(random_before, (void *)getauxval(AT_RANDOM), 16) == 0);
	MUST(readlink("/proc/self/exe", exe_after, PATH_MAX - 1));
	CHECK(strcmp(exe_after, exe_before) == 0);
	CHECK(strcmp(argv[3], "two three") == 0);
	return check_pass();
}
