// PR_SET_KEEPCAPS stays set: capabilities then survive a change of user.
#include "check.h"
#include <sys/prctl.h>

int main(int argc, char **argv)
{
	check_init(argc, argv);
	MUST(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
	check_ready_and_wait();
	EQUAL(prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0), 1);
	return check_pass();
}
