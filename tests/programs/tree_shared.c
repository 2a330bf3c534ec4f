// Processes that share a descriptor table or a working directory (CLONE_FILES, CLONE_FS) share it after the move too.
#include "tree.h"
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define OF_ROOT 66
#define OF_PAIR 77

static pid_t clone_like_fork(unsigned long flags)
{
	return MUST(syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0));
}

static void wait_for(const char *name)
{
	for (int naps = 0; access(in_dir(name), F_OK); naps++) {
		if (naps >= TREE_NAPS)
			check_fail("nobody has made %s", name);
		check_nap();
	}
	errno = 0;
}

static bool is_open(int fd)
{
	bool open = fcntl(fd, F_GETFD) >= 0;

	errno = 0;
	return open;
}

static void open_as(int number, const char *name)
{
	int fd = MUST(open("/dev/zero", O_RDONLY));

	EQUAL(dup2(fd, number), number);
	close(fd);
	check_publish(name, "");
}

/* Shares the root's table: it sees what the root opens, and the root what it opens. */
static int shares_files(void)
{
	check_wait();
	wait_for("root-opened");
	CHECK(is_open(OF_ROOT) && !is_open(OF_PAIR));
	EQUAL(dup2(OF_ROOT, OF_ROOT + 1), OF_ROOT + 1);
	return 0;
}

/* Shares the root's working directory and umask, but not its table. */
static int shares_fs(void)
{
	char here[PATH_MAX];

	check_wait();
	wait_for("root-moved");
	CHECK(getcwd(here, sizeof(here)) && !strcmp(here, in_dir("sub")));
	EQUAL(umask(027), 077);
	CHECK(!is_open(OF_ROOT) && !is_open(OF_PAIR));
	return 0;
}

/* Two siblings that share a table of their own: the younger was born of the elder as its sibling. */
static int elder(void)
{
	pid_t sibling = clone_like_fork(CLONE_PARENT | CLONE_FILES);

	if (sibling == 0) {
		check_publish("sibling", "");
		check_wait();
		wait_for("pair-opened");
		wait_for("root-opened");
		CHECK(is_open(OF_PAIR) && !is_open(OF_ROOT));
		return 0;
	}
	check_wait();
	open_as(OF_PAIR, "pair-opened");
	wait_for("root-opened");
	CHECK(!is_open(OF_ROOT));
	return 0;
}

int main(int argc, char **argv)
{
	pid_t children[3];
	int status;

	check_init(argc, argv);
	MUST(mkdir(in_dir("sub"), 0755));
	children[0] = clone_like_fork(CLONE_FILES);
	if (children[0] == 0)
		_exit(shares_files());
	children[1] = clone_like_fork(CLONE_FS);
	if (children[1] == 0)
		_exit(shares_fs());
	children[2] = clone_like_fork(0);
	if (children[2] == 0)
		_exit(elder());
	wait_for("sibling");
	check_ready_and_wait();
	open_as(OF_ROOT, "root-opened");
	umask(077);
	EQUAL(chdir(in_dir("sub")), 0);
	check_publish("root-moved", "");
	for (int i = 0; i < 3; i++)
		tree_join(children[i]);
	MUST(wait(&status)); /* the younger sibling */
	EQUAL(status, 0);
	CHECK(is_open(OF_ROOT + 1) && !is_open(OF_PAIR));
	EQUAL(umask(0), 027);
	return check_pass();
}
