// A session keeps the nice value of its scheduling group, which goes over as /proc/PID/autogroup tells it.
// requires: root
#include "check.h"

static int group_nice(void)
{
	FILE *file = fopen("/proc/self/autogroup", "r");
	int nice = 0;

	if (!file) /* this kernel has none */
		return 0;
	CHECK(fscanf(file, "/autogroup-%*d nice %d", &nice) == 1);
	fclose(file);
	return nice;
}

int main(int argc, char **argv)
{
	int file;

	check_init(argc, argv);
	setsid();
	errno = 0;
	file = open("/proc/self/autogroup", O_WRONLY);
	if (file >= 0) {
		EQUAL(write(file, "5", 1), 1);
		close(file);
	}
	check_ready_and_wait();
	EQUAL(group_nice(), file >= 0 ? 5 : 0);
	return check_pass();
}
