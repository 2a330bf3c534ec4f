/*
 * The stem: what a restored task is before it is anything. It waits; its
 * tracer gives it an address space, descriptors and, last, its registers.
 */
	.globl _start
_start:
	movl $34, %eax /* pause */
	syscall
	jmp _start

	/* What a tracer looks for in every program in order to borrow it. */
	syscall
	ret
	movq $15, %rax /* rt_sigreturn */
	syscall

	.section .note.GNU-stack, "", @progbits
