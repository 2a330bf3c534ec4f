// The execution domain's flags and the choice against huge pages stay as they were chosen.
#include "check.h"
#include <sys/personality.h>
#include <sys/prctl.h>

int main(int argc, char **argv)
{
	check_init(argc, argv);
	MUST(personality(ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT));
	EQUAL(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), 0);
	check_ready_and_wait();
	EQUAL(personality(0xffffffff), ADDR_NO_RANDOMIZE | ADDR_COMPAT_LAYOUT);
	EQUAL(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
	return check_pass();
}
