// A stopped child is still stopped after the move, and SIGCONT lets it go on.
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

int main(int argc, char **argv)
{
	pid_t child;
	int status;

	tree_init(argc, argv);
	child = MUST(fork());
	if (child == 0) {
		raise(SIGSTOP);
		_exit(3);
	}
	EQUAL(waitpid(child, &status, WUNTRACED), child);
	CHECK(WIFSTOPPED(status));
	check_ready_and_wait();
	for (int i = 0; i < 10; i++)
		check_nap();
	EQUAL(state_of(child), 'T');
	MUST(kill(child, SIGCONT));
	EQUAL(tree_ended(child), 3 << 8);
	return check_pass();
}
