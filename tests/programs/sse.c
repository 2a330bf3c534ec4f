// xmm0-15 and MXCSR survive in a thread that holds them in user mode.
// tags: live
#include "xstate.h"

#define ROUND_TO_ZERO_AND_FLUSH 0xff80u

static void hold(void)
{
	uint32_t mxcsr = ROUND_TO_ZERO_AND_FLUSH, mxcsr_after, mxcsr_default = 0x1f80;

	asm volatile("ldmxcsr %[mxcsr]\n" FOR_EACH(ALL_16, "movdqa \\n*16(%[in]), %%xmm\\n") SPIN FOR_EACH(
			     ALL_16, "movdqa %%xmm\\n, \\n*16(%[out])") "stmxcsr %[after]; ldmxcsr %[normal]\n"
		     : [after] "=m"(mxcsr_after)
		     : [in] "r"(pattern_in), [out] "r"(pattern_out), [mxcsr] "m"(mxcsr), [normal] "m"(mxcsr_default)
		     : "rcx", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
		       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
	EQUAL(mxcsr_after, ROUND_TO_ZERO_AND_FLUSH);
}

int main(int argc, char **argv)
{
	return run_hold(argc, argv, 16 * 16);
}
