// Children that SIGSTOP and SIGTSTP have stopped are still stopped after the move, and SIGCONT lets them go on.
#include "tree.h"

static char state_of(pid_t pid)
{
	char path[64], text[128] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = MUST(open(path, O_RDONLY));
	MUST(read(fd, text, sizeof(text) - 1));
	close(fd);
	return strrchr(text, ')')[2];
}

static pid_t stopped_by(int number)
{
	pid_t child = MUST(fork());
	int status;

	if (child == 0) {
		MUST(setpgid(0, 0)); /* SIGTSTP does nothing in a group without a parent in its session */
		raise(number);
		_exit(3);
	}
	EQUAL(waitpid(child, &status, WUNTRACED), child);
	CHECK(WIFSTOPPED(status));
	return child;
}

int main(int argc, char **argv)
{
	pid_t children[2];

	tree_init(argc, argv);
	children[0] = stopped_by(SIGSTOP);
	children[1] = stopped_by(SIGTSTP);
	check_ready_and_wait();
	for (int i = 0; i < 10; i++)
		check_nap();
	for (int i = 0; i < 2; i++) {
		EQUAL(state_of(children[i]), 'T');
		MUST(kill(children[i], SIGCONT));
		EQUAL(tree_ended(children[i]), 3 << 8);
	}
	return check_pass();
}
