// A deep stack keeps every frame, unwinds, and grows deeper than it was.
#include "pattern.h"

#define FRAME (16 * 1024)
#define DEPTH 64   /* 1 MiB at the time of the move */
#define DEEPER 256 /* 4 MiB afterwards, within the usual limit of 8 */

__attribute__((noinline)) static void descend(int level, int bottom, bool wait_at_bottom)
{
	volatile char *keep;
	char frame[FRAME];

	keep = frame;
	pattern_fill(frame, sizeof(frame), level);
	if (level < bottom)
		descend(level + 1, bottom, wait_at_bottom);
	else if (wait_at_bottom)
		check_ready_and_wait();
	pattern_check((const void *)keep, sizeof(frame), level);
}

int main(int argc, char **argv)
{
	check_init(argc, argv);
	descend(0, DEPTH, true);
	descend(0, DEEPER, false);
	return check_pass();
}
