// The protection key rights (PKRU) survive in a thread that holds them in user mode.
// requires: ospke
// tags: live
#include "xstate.h"

#define WRITE_DISABLE_KEYS_1_TO_5 0x55555aa8u

static void hold(void)
{
	uint32_t rights, original;

	asm volatile("rdpkru" : "=a"(original) : "c"(0) : "rdx");
	asm volatile("wrpkru" : : "a"(WRITE_DISABLE_KEYS_1_TO_5), "c"(0), "d"(0) : "memory");
	asm volatile(SPIN : : : "rcx");
	asm volatile("rdpkru" : "=a"(rights) : "c"(0) : "rdx");
	asm volatile("wrpkru" : : "a"(original), "c"(0), "d"(0) : "memory");
	EQUAL(rights, WRITE_DISABLE_KEYS_1_TO_5);
}

int main(int argc, char **argv)
{
	return run_hold(argc, argv, 0);
}
