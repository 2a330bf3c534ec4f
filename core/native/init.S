/*
 * PID 1 of a namespace that holds one restored tree: reaps whatever ends in it
 * and ends, and the namespace with it, when nothing is left. On SIGTERM it
 * passes the signal on to everybody first. The tree's first task is forked
 * from it by its tracer (core/tracee/namespace_init.py).
 */
	.set SIGTERM, 15
	.set SIGCONT, 18
	.set MINUS_ECHILD, -10

	.globl _start
_start:
	/* Blocked, both wait for us: as PID 1 we would never be told of SIGTERM. */
	movl $14, %eax /* rt_sigprocmask(SIG_BLOCK, signals, NULL, 8) */
	xorl %edi, %edi
	leaq signals(%rip), %rsi
	xorl %edx, %edx
	movl $8, %r10d
	syscall
wait:
	movl $128, %eax /* rt_sigtimedwait(signals, NULL, NULL, 8) */
	leaq signals(%rip), %rdi
	xorl %esi, %esi
	xorl %edx, %edx
	movl $8, %r10d
	syscall
	cmpl $SIGTERM, %eax
	je end_all
	testl %eax, %eax
	js wait /* EINTR: before there is a child ECHILD would not mean the end */
reap:
	movl $61, %eax /* wait4(-1, NULL, WNOHANG | __WALL, NULL) */
	movq $-1, %rdi
	xorl %esi, %esi
	movl $0x40000001, %edx
	xorl %r10d, %r10d
	syscall
	testq %rax, %rax
	jg reap
	cmpq $MINUS_ECHILD, %rax
	jne wait
	movl $231, %eax /* exit_group(0) */
	xorl %edi, %edi
	syscall

end_all:
	movl $SIGTERM, %esi
	call kill_all
	movl $SIGCONT, %esi /* who is stopped has to run in order to end */
	call kill_all
	jmp reap

kill_all:
	movl $62, %eax
	movq $-1, %rdi
	syscall
	ret

	/* What a tracer looks for in every program in order to borrow it. */
	syscall
	ret
	movq $15, %rax /* rt_sigreturn */
	syscall

	.balign 8
signals: /* SIGTERM and SIGCHLD */
	.quad 1 << 14 | 1 << 16

	.section .note.GNU-stack, "", @progbits
