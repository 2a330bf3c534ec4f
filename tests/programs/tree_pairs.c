// Socket pairs between parent and children keep what waits in them, whole messages and both directions.
#include "tree.h"
#include "unix.h"

static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};

int main(int argc, char **argv)
{
	int ends[3][2];
	pid_t children[3];

	tree_init(argc, argv);
	for (int i = 0; i < 3; i++) {
		unix_pair(types[i], ends[i]);
		children[i] = MUST(fork());
		if (children[i] == 0) {
			int mine = ends[i][1];

			close(ends[i][0]);
			unix_send(mine, "from the child");
			tree_wait();
			unix_expect(mine, "from the parent");
			unix_send(mine, "later");
			_exit(0);
		}
		close(ends[i][1]);
		unix_send(ends[i][0], "from the parent");
	}
	tree_ready_and_wait(3);
	for (int i = 0; i < 3; i++) {
		tree_join(children[i]);
		if (types[i] == SOCK_STREAM) {
			unix_expect(ends[i][0], "from the childlater");
			continue;
		}
		unix_expect(ends[i][0], "from the child");
		unix_expect(ends[i][0], "later");
	}
	return check_pass();
}
