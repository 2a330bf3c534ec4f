// Descriptors from before a fork stay one file with one position; what was opened after it has its own.
#include "tree.h"

int main(int argc, char **argv)
{
	int shared, appended, own, late;
	pid_t children[3];
	char text[64];

	tree_init(argc, argv);
	shared = MUST(open(in_dir("shared"), O_RDWR | O_CREAT, 0600));
	EQUAL(write(shared, "0123456789", 10), 10);
	EQUAL(lseek(shared, 2, SEEK_SET), 2);
	appended = MUST(open(in_dir("appended"), O_RDWR | O_CREAT | O_APPEND, 0600));
	for (int i = 0; i < 3; i++) {
		children[i] = MUST(fork());
		if (children[i])
			continue;
		own = MUST(open(in_dir("shared"), O_RDONLY));
		late = MUST(dup2(shared, 40 + i));
		close(shared);
		EQUAL(read(own, text, i + 1), i + 1);
		tree_wait();
		EQUAL(lseek(own, 0, SEEK_CUR), i + 1);
		EQUAL(read(late, text, 2), 2);
		EQUAL(write(appended, "x", 1), 1);
		_exit(0);
	}
	tree_ready_and_wait(3);
	for (int i = 0; i < 3; i++)
		tree_join(children[i]);
	EQUAL(lseek(shared, 0, SEEK_CUR), 8);
	EQUAL(read(shared, text, 10), 2);
	CHECK(memcmp(text, "89", 2) == 0);
	EQUAL(lseek(appended, 0, SEEK_END), 3);
	return check_pass();
}
