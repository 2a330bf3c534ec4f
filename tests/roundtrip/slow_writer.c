// process_vm_writev(2) whose copying waits for its source, while the pages that it writes to are pinned already.
// `slow_writer target private|shared`: prints "area ADDRESS" and waits to be killed. `slow_writer writer PID ADDRESS`:
// prints "begun" when the copy waits, goes on after a line, prints "written" and ends.
#define _GNU_SOURCE
#include "stress.h"
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define BYTES (16 * PAGE)

static int serve_target(const char *kind)
{
	int flags = strcmp(kind, "shared") ? MAP_PRIVATE : MAP_SHARED;
	char *area = MUST(mmap(NULL, BYTES, READ_WRITE, flags | MAP_ANONYMOUS, -1, 0));
	int null = MUST(open("/dev/null", O_RDWR | O_CLOEXEC));

	memset(area, 1, BYTES);
	dprintf(1, "area %p\n", (void *)area);
	for (int fd = 0; fd < 3; fd++) /* to a pipe from a process that does not move along the answer would be no */
		MUST(dup2(null, fd));
	for (;;)
		pause();
}

static void *serve_faults(void *fd)
{
	int uffd = (int)(intptr_t)fd;
	static char content[PAGE];
	struct uffd_msg fault;
	char line;

	memset(content, 2, sizeof(content));
	for (int number = 0; MUST(read(uffd, &fault, sizeof(fault))); number++) {
		struct uffdio_copy copy = {fault.arg.pagefault.address & ~(PAGE - 1), (uintptr_t)content, PAGE, 0, 0};

		if (!number) {
			dprintf(1, "begun\n");
			MUST(read(0, &line, 1));
		}
		MUST(ioctl(uffd, UFFDIO_COPY, &copy));
	}
	return NULL;
}

static int write_slowly(pid_t pid, void *address)
{
	struct uffdio_api api = {.api = UFFD_API};
	struct uffdio_register what = {.mode = UFFDIO_REGISTER_MODE_MISSING};
	struct iovec from = {mmap(NULL, BYTES, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), BYTES};
	struct iovec to = {address, BYTES};
	int uffd = MUST(syscall(SYS_userfaultfd, O_CLOEXEC));
	pthread_t thread;

	MUST(from.iov_base);
	what.range.start = (uintptr_t)from.iov_base;
	what.range.len = BYTES;
	MUST(ioctl(uffd, UFFDIO_API, &api));
	MUST(ioctl(uffd, UFFDIO_REGISTER, &what));
	if (pthread_create(&thread, NULL, serve_faults, (void *)(intptr_t)uffd))
		return 2;
	if (MUST(process_vm_writev(pid, &from, 1, &to, 1, 0)) != BYTES)
		return 2;
	dprintf(1, "written\n");
	return 0;
}

int main(int count, char **words)
{
	if (count == 3)
		return serve_target(words[2]);
	return count == 4 ? write_slowly(atoi(words[2]), (void *)strtoul(words[3], NULL, 16)) : 2;
}
