// The out-of-memory score adjustment is kept.
#include "snapshot.h"

static const char path[] = "/proc/self/oom_score_adj";

int main(int argc, char **argv)
{
	struct snapshot *before;
	int fd;

	check_init(argc, argv);
	fd = MUST(open(path, O_WRONLY | O_CLOEXEC));
	EQUAL(write(fd, "321", 3), 3);
	MUST(close(fd));
	before = snapshot_take(path);
	CHECK(strcmp(before->text, "321\n") == 0);
	check_ready_and_wait();
	snapshot_check_same(before, path);
	return check_pass();
}
