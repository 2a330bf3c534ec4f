// ymm0-15, upper halves included, survive in a thread that holds them in user mode.
// cflags: -mavx
// requires: avx
// tags: live
#include "xstate.h"

static void hold(void)
{
	asm volatile(FOR_EACH(ALL_16, "vmovdqa \\n*32(%[in]), %%ymm\\n")
			     SPIN FOR_EACH(ALL_16, "vmovdqa %%ymm\\n, \\n*32(%[out])") "vzeroupper\n"
		     :
		     : [in] "r"(pattern_in), [out] "r"(pattern_out)
		     : "rcx", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
		       "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

int main(int argc, char **argv)
{
	return run_hold(argc, argv, 16 * 32);
}
