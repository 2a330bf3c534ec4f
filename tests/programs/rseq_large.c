// An rseq area of 64 bytes, where the kernel takes one that large, stays registered: cpu_id goes on being written.
#include "registered.h"

static struct {
	struct rseq rseq;
	char rest[64 - sizeof(struct rseq)];
} large __attribute__((aligned(64)));

static void check_large(void)
{
	check_registered(&large.rseq);
	CHECK(errno == EBUSY || errno == EINVAL); /* registered with 32 bytes, or with more */
	errno = 0;
}

int main(int argc, char **argv)
{
	struct rseq *libcs = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

	check_init(argc, argv);
	if (__rseq_size)
		MUST(syscall(SYS_rseq, libcs, 32, RSEQ_FLAG_UNREGISTER, RSEQ_SIG));
	if (syscall(SYS_rseq, &large, sizeof(large), 0, RSEQ_SIG) < 0) {
		MUST(syscall(SYS_rseq, &large, 32, 0, RSEQ_SIG));
		check_publish("small", "");
	}
	check_large();
	check_ready_and_wait();
	check_large();
	return check_pass();
}
