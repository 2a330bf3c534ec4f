// Zombies keep how they ended, their name and their group, and no signal tells of their end a second time.
#include "tree.h"

static const int ends[] = {0, 7, 255};
static const int kills[] = {SIGTERM, SIGKILL, SIGUSR1, SIGALRM};
static volatile sig_atomic_t told;

static void count(int number)
{
	told += number == SIGCHLD;
}

static pid_t end_by(int code, int number)
{
	pid_t child = MUST(fork());

	if (child == 0) {
		MUST(prctl(PR_SET_NAME, "was named"));
		MUST(setpgid(0, 0));
		if (number)
			raise(number);
		_exit(code);
	}
	tree_wait_zombie(child);
	return child;
}

static void check_name(pid_t child)
{
	char path[64], text[128] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", child);
	fd = MUST(open(path, O_RDONLY));
	MUST(read(fd, text, sizeof(text) - 1));
	close(fd);
	CHECK(strstr(text, "(was named) Z "));
}

int main(int argc, char **argv)
{
	pid_t ended[3], killed[4], parent;
	int before;

	tree_init(argc, argv);
	CHECK(signal(SIGCHLD, count) != SIG_ERR);
	for (int i = 0; i < 3; i++)
		ended[i] = end_by(ends[i], 0);
	for (int i = 0; i < 4; i++)
		killed[i] = end_by(0, kills[i]);
	parent = MUST(fork());
	if (parent == 0) {
		pid_t child = end_by(9, 0);

		tree_wait();
		EQUAL(tree_ended(child), 9 << 8);
		_exit(0);
	}
	tree_meet(1);
	before = told;
	check_ready_and_wait();
	EQUAL(told, before);
	close(tree_gate[1]);
	for (int i = 0; i < 3; i++) {
		check_name(ended[i]);
		EQUAL(getpgid(ended[i]), ended[i]);
		EQUAL(tree_ended(ended[i]), ends[i] << 8);
	}
	for (int i = 0; i < 4; i++)
		EQUAL(tree_ended(killed[i]), kills[i]);
	signal(SIGCHLD, SIG_DFL);
	tree_join(parent);
	EQUAL(waitpid(-1, NULL, WNOHANG), -1);
	return check_pass();
}
