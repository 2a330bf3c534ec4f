// A process that gave root away keeps nobody's ids and groups, has no capability, and cannot come back.
// requires: root
#include "snapshot.h"
#include <grp.h>
#include <sys/stat.h>

#define NOBODY 65534

int main(int argc, char **argv)
{
	const gid_t groups[] = {100, 200};
	uid_t real, effective, saved;
	struct snapshot *before;
	gid_t kept[8];

	check_init(argc, argv);
	MUST(chmod(check_dir, 0777));
	MUST(chdir(check_dir)); /* nobody may not be allowed to walk there */
	check_dir = ".";
	MUST(setgroups(2, groups));
	MUST(setresgid(NOBODY, NOBODY, NOBODY));
	MUST(setresuid(NOBODY, NOBODY, NOBODY));
	before = snapshot_take("/proc/self/status");
	check_ready_and_wait();
	MUST(getresuid(&real, &effective, &saved));
	EQUAL(real, NOBODY);
	EQUAL(effective, NOBODY);
	EQUAL(saved, NOBODY);
	EQUAL(getgroups(8, kept), 2);
	EQUAL(kept[0], 100);
	EQUAL(kept[1], 200);
	for (const char *keys = "Gid:\0CapInh:\0CapPrm:\0CapEff:\0CapBnd:\0CapAmb:\0"; *keys; keys += strlen(keys) + 1)
		snapshot_check_line(before, "/proc/self/status", keys);
	EQUAL(setresuid(0, 0, 0), -1);
	EQUAL(errno, EPERM);
	return check_pass();
}
