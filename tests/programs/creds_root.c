// A root process keeps its ids, groups and all five capability sets, and gains no restriction on the way.
// requires: root
#include "snapshot.h"
#include <grp.h>

static const char *const keys[] = {
	"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:", "NoNewPrivs:", "Seccomp:"};

int main(int argc, char **argv)
{
	const gid_t groups[] = {0, 10, 20, 4711};
	struct snapshot *before;

	check_init(argc, argv);
	MUST(setgroups(4, groups));
	MUST(setresgid(0, 10, 20));
	before = snapshot_take("/proc/self/status");
	check_ready_and_wait();
	for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
		snapshot_check_line(before, "/proc/self/status", keys[i]);
	return check_pass();
}
