// All five capability sets, securebits with keep-caps, and no_new_privs stay what they were for a user other than root.
// requires: root
#include "check.h"
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define BIT(number) (1U << (number))
#define PERMITTED (BIT(CAP_CHOWN) | BIT(CAP_KILL) | BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_SETPCAP))
#define SECUREBITS (SECBIT_KEEP_CAPS | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_CAP_AMBIENT_RAISE)

struct sets {
	struct __user_cap_data_struct caps[2];
	int bounding, ambient, securebits, no_new_privs;
	uid_t users[3];
};

static void look(struct sets *sets)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};

	memset(sets, 0, sizeof(*sets));
	MUST(syscall(SYS_capget, &header, sets->caps));
	for (int number = 0; number < 31; number++) {
		sets->bounding |= (prctl(PR_CAPBSET_READ, number) == 1) << number;
		sets->ambient |= (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, number, 0, 0) == 1) << number;
	}
	sets->securebits = MUST(prctl(PR_GET_SECUREBITS));
	sets->no_new_privs = MUST(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
	MUST(getresuid(&sets->users[0], &sets->users[1], &sets->users[2]));
}

int main(int argc, char **argv)
{
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct caps[2] = {{PERMITTED, PERMITTED, BIT(CAP_KILL) | BIT(CAP_CHOWN)}};
	struct sets before, after;

	check_init(argc, argv);
	MUST(chmod(check_dir, 0777));
	MUST(chdir(check_dir)); /* nobody may not be allowed to walk there */
	check_dir = ".";
	MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT));
	MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP));
	MUST(setresgid(65534, 65534, 65534));
	MUST(setresuid(65534, 65533, 65532));
	MUST(syscall(SYS_capset, &header, caps));
	MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0));
	MUST(prctl(PR_SET_SECUREBITS, SECUREBITS));
	caps[0].effective = BIT(CAP_CHOWN);
	caps[0].permitted &= ~BIT(CAP_SETPCAP);
	MUST(syscall(SYS_capset, &header, caps));
	MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	look(&before);
	EQUAL(before.ambient, BIT(CAP_KILL));
	check_ready_and_wait();
	look(&after);
	EQUAL(after.caps[0].effective, before.caps[0].effective);
	EQUAL(after.caps[0].permitted, before.caps[0].permitted);
	EQUAL(after.caps[0].inheritable, before.caps[0].inheritable);
	EQUAL(after.bounding, before.bounding);
	EQUAL(after.ambient, before.ambient);
	EQUAL(after.securebits, before.securebits);
	EQUAL(memcmp(&after, &before, sizeof(after)), 0);
	return check_pass();
}
