// Membarrier registrations, child subreaper, core dump filter and memory-deny-write-execute stay as they were chosen.
#include "check.h"
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#define GET_REGISTRATIONS (1 << 9)

static long membarrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0);
}

static unsigned int dump_filter(void)
{
	FILE *file = fopen("/proc/self/coredump_filter", "r");
	unsigned int filter;

	CHECK(file && fscanf(file, "%x", &filter) == 1);
	fclose(file);
	return filter;
}

int main(int argc, char **argv)
{
	int file, reaps = 0;
	long registered;

	check_init(argc, argv);
	EQUAL(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED), 0);
	EQUAL(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ), 0);
	registered = membarrier(GET_REGISTRATIONS);
	EQUAL(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
	file = MUST(open("/proc/self/coredump_filter", O_WRONLY));
	EQUAL(write(file, "0x7b", 4), 4);
	close(file);
	EQUAL(prctl(PR_SET_MDWE, 1, 0, 0, 0), 0);
	check_ready_and_wait();
	EQUAL(membarrier(GET_REGISTRATIONS), registered);
	EQUAL(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED), 0);
	EQUAL(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ), 0);
	EQUAL(prctl(PR_GET_CHILD_SUBREAPER, &reaps, 0, 0, 0), 0);
	EQUAL(reaps, 1);
	EQUAL(dump_filter(), 0x7b);
	EQUAL(prctl(PR_GET_MDWE, 0, 0, 0, 0), 1);
	CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
	return check_pass();
}
