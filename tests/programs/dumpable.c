// A process that made itself not dumpable stays so.
#include "check.h"
#include <sys/prctl.h>

int main(int argc, char **argv)
{
	check_init(argc, argv);
	MUST(prctl(PR_SET_DUMPABLE, 0));
	check_ready_and_wait();
	EQUAL(prctl(PR_GET_DUMPABLE), 0);
	return check_pass();
}
