// zmm0-31 and the mask registers k1-k7 survive in a thread that holds them in user mode.
// cflags: -mavx512f -mavx512bw
// requires: avx512f avx512bw
// tags: live
#include "xstate.h"

#define MASKS "1,2,3,4,5,6,7"

static void hold(void)
{
	uint8_t *masks_in = pattern_in + 32 * 64, *masks_out = pattern_out + 32 * 64;

	memcpy(masks_out, masks_in, 8); /* k0 cannot mask and is not held */
	asm volatile(
		FOR_EACH(ALL_32, "vmovdqa64 \\n*64(%[in]), %%zmm\\n")
			FOR_EACH(MASKS, "kmovq \\n*8(%[masks_in]), %%k\\n")
				SPIN FOR_EACH(ALL_32, "vmovdqa64 %%zmm\\n, \\n*64(%[out])")
					FOR_EACH(MASKS, "kmovq %%k\\n, \\n*8(%[masks_out])") "vzeroupper\n"
		:
		: [in] "r"(pattern_in), [out] "r"(pattern_out), [masks_in] "r"(masks_in), [masks_out] "r"(masks_out)
		: "rcx", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
		  "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20",
		  "xmm21", "xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31",
		  "k1", "k2", "k3", "k4", "k5", "k6", "k7");
}

int main(int argc, char **argv)
{
	return run_hold(argc, argv, 32 * 64 + 8 * 8);
}
