// What plain C needs for the same work, in nanoseconds on stdout: `floor memory MIB`: populate by memset, then memcpy;
// `floor freeze PID…`: seize and stop every thread, read its registers, let it go.
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

enum { MOST = 100000 };

static int tids[MOST], count;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void find_tids(const char *pid)
{
	char path[64];
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	tasks = opendir(path);
	for (struct dirent *entry; tasks && (entry = readdir(tasks));)
		if (atoi(entry->d_name) && count < MOST)
			tids[count++] = atoi(entry->d_name);
	if (tasks)
		closedir(tasks);
}

static void freeze_and_thaw(void)
{
	struct user_regs_struct registers;
	struct iovec part = { &registers, sizeof(registers) };
	int status;

	for (int at = 0; at < count; at++)
		if (ptrace(PTRACE_SEIZE, tids[at], 0, 0) || ptrace(PTRACE_INTERRUPT, tids[at], 0, 0))
			exit(2);
	for (int at = 0; at < count; at++)
		if (waitpid(tids[at], &status, __WALL) != tids[at] || !WIFSTOPPED(status))
			exit(3);
	for (int at = 0; at < count; at++)
		if (ptrace(PTRACE_GETREGSET, tids[at], (void *)NT_PRSTATUS, &part))
			exit(4);
	for (int at = 0; at < count; at++)
		if (ptrace(PTRACE_DETACH, tids[at], 0, 0))
			exit(5);
}

static char *map(size_t size)
{
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		exit(6);
	madvise(memory, size, MADV_NOHUGEPAGE);
	return memory;
}

int main(int argc, char **argv)
{
	uint64_t began;

	if (argc > 2 && !strcmp(argv[1], "memory")) {
		size_t size = atol(argv[2]) << 20;
		char *from = map(size), *to = map(size);

		began = now_ns();
		memset(from, 7, size);
		printf("%ju ", (uintmax_t)(now_ns() - began));
		memset(to, 8, size);
		began = now_ns();
		memcpy(to, from, size);
		printf("%ju %d\n", (uintmax_t)(now_ns() - began), to[size / 2]);
		return 0;
	}
	began = now_ns();
	for (int at = 2; at < argc; at++)
		find_tids(argv[at]);
	freeze_and_thaw();
	printf("%ju %d\n", (uintmax_t)(now_ns() - began), count);
	return count == 0;
}
