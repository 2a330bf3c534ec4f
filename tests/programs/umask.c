// The file mode creation mask is kept.
#include "check.h"
#include <sys/stat.h>

int main(int argc, char **argv)
{
	struct stat status;

	check_init(argc, argv);
	umask(0137);
	check_ready_and_wait();
	MUST(fstat(MUST(open(in_dir("new"), O_WRONLY | O_CREAT, 0777)), &status));
	EQUAL(status.st_mode & 0777, 0777 & ~0137);
	EQUAL(umask(0), 0137);
	return check_pass();
}
