/*
 * Vector registers hold a pattern while the thread spins in user mode, again and again until go.
 * A program supplies hold(): load from pattern_in, spin, store to pattern_out.
 */
#ifndef XSTATE_H
#define XSTATE_H

#include "pattern.h"

#define SPIN "mov $4000000, %%ecx\n 1: loop 1b\n"
#define ALL_16 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
#define ALL_32 ALL_16 ",16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31"
/* One instruction for each register number; \\n stands for the number. */
#define FOR_EACH(numbers, instruction) ".irp n," numbers "\n" instruction "\n.endr\n"

static uint8_t pattern_in[4096] __attribute__((aligned(64)));
static uint8_t pattern_out[4096] __attribute__((aligned(64)));

static void hold(void);

static inline int run_hold(int argc, char **argv, size_t size_bytes)
{
	check_init(argc, argv);
	pattern_fill(pattern_in, size_bytes, 7);
	check_ready();
	do {
		memset(pattern_out, 0, sizeof(pattern_out));
		hold();
		pattern_check(pattern_out, size_bytes, 7);
	} while (!check_go());
	return check_pass();
}

#endif
