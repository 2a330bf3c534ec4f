// Memory locked by mlockall(2) is locked afterwards, and so is what is mapped from then on.
#include "lockall.h"

int main(int argc, char **argv)
{
	return run_lockall(argc, argv, MCL_CURRENT | MCL_FUTURE, "lo");
}
