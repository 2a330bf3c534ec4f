// A daemon that kept a single capability, ambient too, has that one and no other.
// requires: root
#include "snapshot.h"
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define NOBODY 65534
#define ONLY (1u << CAP_NET_BIND_SERVICE)

int main(int argc, char **argv)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[2] = {{ONLY, ONLY, ONLY}}, kept[2];
	struct snapshot *before;

	check_init(argc, argv);
	MUST(chmod(check_dir, 0777));
	MUST(chdir(check_dir));
	check_dir = ".";
	MUST(prctl(PR_SET_KEEPCAPS, 1));
	MUST(setresgid(NOBODY, NOBODY, NOBODY));
	MUST(setresuid(NOBODY, NOBODY, NOBODY));
	MUST(syscall(SYS_capset, &header, sets));
	MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
	before = snapshot_take("/proc/self/status");
	check_ready_and_wait();
	MUST(syscall(SYS_capget, &header, kept));
	CHECK(memcmp(kept, sets, sizeof(sets)) == 0);
	EQUAL(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_BIND_SERVICE, 0, 0), 1);
	snapshot_check_line(before, "/proc/self/status", "CapBnd:");
	snapshot_check_line(before, "/proc/self/status", "CapAmb:");
	return check_pass();
}
