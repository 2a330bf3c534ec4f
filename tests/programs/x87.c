// The x87 stack, its top and its control word survive in a thread that holds them in user mode.
// tags: live
#include "xstate.h"

#define ROUND_UP_DOUBLE 0x0a7f /* not the default 0x037f */

static void hold(void)
{
	uint16_t control = ROUND_UP_DOUBLE, control_after, status_after;
	uint64_t before[8], after[8];

	for (int i = 0; i < 8; i++)
		before[i] = pattern_word(i) >> 12; /* exact in a double */
	asm volatile("fninit; fldcw %[control]\n"
		     ".irp n,0,1,2,3,4,5,6,7\n fildll \\n*8(%[before])\n .endr\n" SPIN
		     "fnstcw %[control_after]; fnstsw %[status_after]\n"
		     ".irp n,7,6,5,4,3,2,1,0\n fistpll \\n*8(%[after])\n .endr\n fninit\n"
		     : [control_after] "=m"(control_after), [status_after] "=m"(status_after)
		     : [control] "m"(control), [before] "r"(before), [after] "r"(after)
		     : "rcx", "memory", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
	EQUAL(control_after, ROUND_UP_DOUBLE);
	EQUAL((status_after >> 11) & 7, 0); /* eight pushes: the top came round */
	for (int i = 0; i < 8; i++)
		EQUAL(after[i], before[i]);
}

int main(int argc, char **argv)
{
	return run_hold(argc, argv, 0);
}
