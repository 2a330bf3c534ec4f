/*
 * The interpreter: runs an array of struct mg_op inside a task, as parasite
 * when dumping and as restorer when restoring. Position independent, no
 * stack, no relocations, no policy.
 *
 *   r12  current op             r13  first op of the program
 *   r15  the op to go on with when a syscall failed (the program's tail)
 *   rsp  for MG_OP_END: an rt_sigframe without its first word
 *
 * It ends itself by rt_sigreturn, whoever is still watching.
 */
#define OP_SIZE 72
#define OP_ARGS 8
#define OP_FLAGS 56
#define OP_RESULT 64
#define MAY_FAIL_BIT 8
#define LOADED_BIT 16
#define WIDE_BIT 24

	.section .rodata
	.globl mg_blob_start
	.globl mg_blob_end
	.hidden mg_blob_start
	.hidden mg_blob_end

	.macro argument index, register
	movq OP_ARGS + 8 * \index(%r12), \register
	btq $\index, %r14
	jnc 1f
	imulq $OP_SIZE, \register, \register
	movq OP_RESULT(%r13, \register), \register
1:
	btq $LOADED_BIT + \index, %r14
	jnc 2f
	movslq (\register), \register
2:
	btq $WIDE_BIT + \index, %r14
	jnc 3f
	movq (\register), \register
3:
	.endm

mg_blob_start:
next:
	movq (%r12), %rbx
	cmpq $-1, %rbx
	je end
	movq OP_FLAGS(%r12), %r14
	argument 0, %rdi
	argument 1, %rsi
	argument 2, %rdx
	argument 3, %r10
	argument 4, %r8
	argument 5, %r9
	movq %rbx, %rax
	syscall
	movq %rax, OP_RESULT(%r12)
	cmpq $-4095, %rax
	jb advance
	btq $MAY_FAIL_BIT, %r14
	jc advance
	movq %r15, %r12
	jmp next
advance:
	addq $OP_SIZE, %r12
	jmp next
end:
	movl $15, %eax
	syscall
	hlt
mg_blob_end:

	.section .note.GNU-stack, "", @progbits
