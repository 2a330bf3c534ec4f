// Memory locked on fault by mlockall(2) stays so, also what is mapped from then on.
#include "lockall.h"

int main(int argc, char **argv)
{
	return run_lockall(argc, argv, MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT, "lf");
}
