// Open files of /proc that show a process of the tree still show it: oneself, a child, the parent, a zombie.
#include "tree.h"

static int open_of(pid_t pid, const char *name, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d%s", pid, name);
	return MUST(open(path, flags));
}

static void check_status(int fd, pid_t pid)
{
	char text[4096] = "", line[32];

	MUST(pread(fd, text, sizeof(text) - 1, 0));
	snprintf(line, sizeof(line), "\nPid:\t%d\n", pid);
	if (!strstr(text, line))
		check_fail("%d shows %.60s", fd, text);
}

static void check_name(int fd, const char *name)
{
	char text[32] = "";

	MUST(pread(fd, text, sizeof(text) - 1, 0));
	CHECK(!strncmp(text, name, strlen(name)));
}

int main(int argc, char **argv)
{
	static volatile long word = 4711;
	char rest[16] = "", wanted[16];
	long found = 0;
	pid_t child, dead;

	tree_init(argc, argv);
	child = MUST(fork());
	if (child == 0) {
		pid_t parent = getppid();
		int shown = open_of(parent, "/status", O_RDONLY);

		tree_wait();
		check_status(shown, parent);
		_exit(0);
	}
	dead = MUST(fork());
	if (dead == 0)
		_exit(0);
	tree_wait_zombie(dead);
	int own = MUST(open("/proc/self/status", O_RDONLY)), folder = MUST(open("/proc/self", O_RDONLY | O_DIRECTORY));
	int name = open_of(getpid(), "/task/", O_RDONLY | O_DIRECTORY), memory = open_of(getpid(), "/mem", O_RDWR);
	int theirs = open_of(child, "/status", O_RDONLY), zombie = open_of(dead, "/stat", O_RDONLY);
	int host = MUST(open("/proc/stat", O_RDONLY));

	EQUAL(lseek(own, 6, SEEK_SET), 6);
	tree_ready_and_wait(1);
	EQUAL(read(own, rest, 4), 4);
	snprintf(wanted, sizeof(wanted), "%.4s", program_invocation_short_name);
	if (strcmp(rest, wanted))
		check_fail("at 6: %s, not %s", rest, wanted);
	check_status(own, getpid());
	check_status(theirs, child);
	check_status(MUST(openat(folder, "status", O_RDONLY)), getpid());
	snprintf(rest, sizeof(rest), "%d/comm", getpid());
	check_name(MUST(openat(name, rest, O_RDONLY)), wanted);
	snprintf(wanted, sizeof(wanted), "%d (", dead);
	check_name(zombie, wanted);
	check_name(host, "cpu");
	EQUAL(pread(memory, &found, sizeof(found), (off_t)(uintptr_t)&word), sizeof(found));
	EQUAL(found, 4711);
	tree_join(child);
	return check_pass();
}
