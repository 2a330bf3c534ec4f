// General registers, flags and the stack pointer survive in a single thread that never leaves its loop for long.
// tags: live
#include "check.h"

#define CARRY_SIGN_DIRECTION 0x481UL

__attribute__((used)) static volatile uint64_t was[14], is[14], flags;

/* Loads 12 registers from was[], spins, stores them to is[]. Only rcx and rsp are not patterned. */
__attribute__((naked, noipa)) static void hold_registers(void)
{
	asm("push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	    "mov $4000000, %rcx\n" /* about 10 ms of `loop`, which changes no flag */
	    "mov was+0(%rip), %rax; mov was+8(%rip), %rbx; mov was+16(%rip), %rdx; mov was+24(%rip), %rsi\n"
	    "mov was+32(%rip), %rdi; mov was+40(%rip), %rbp; mov was+48(%rip), %r8; mov was+56(%rip), %r9\n"
	    "mov was+64(%rip), %r10; mov was+72(%rip), %r11; mov was+80(%rip), %r12; mov was+88(%rip), %r13\n"
	    "mov was+96(%rip), %r14; mov was+104(%rip), %r15\n"
	    "pushq $0x681; popfq\n" /* carry, sign, direction, interrupts */
	    "1: loop 1b\n"
	    "pushfq; popq flags(%rip); cld\n"
	    "mov %rax, is+0(%rip); mov %rbx, is+8(%rip); mov %rdx, is+16(%rip); mov %rsi, is+24(%rip)\n"
	    "mov %rdi, is+32(%rip); mov %rbp, is+40(%rip); mov %r8, is+48(%rip); mov %r9, is+56(%rip)\n"
	    "mov %r10, is+64(%rip); mov %r11, is+72(%rip); mov %r12, is+80(%rip); mov %r13, is+88(%rip)\n"
	    "mov %r14, is+96(%rip); mov %r15, is+104(%rip)\n"
	    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	    "ret\n");
}

int main(int argc, char **argv)
{
	volatile uint64_t counter = 0;

	check_init(argc, argv);
	for (int i = 0; i < 14; i++)
		was[i] = 0x0101010101010101UL * (0xa0 + i);
	check_ready();
	for (uint64_t expected = 0; expected == 0 || !check_go(); expected++) {
		EQUAL(counter++, expected);
		hold_registers();
		for (int i = 0; i < 14; i++)
			EQUAL(is[i], was[i]);
		EQUAL(flags & CARRY_SIGN_DIRECTION, CARRY_SIGN_DIRECTION);
	}
	return check_pass();
}
