// A thread that may make the calls of strict seccomp only stays confined, and so does one with a filter of its own.
// cflags: -pthread
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static int go_pipe[2], done_pipe[2];
static _Atomic int prepared;

static char seccomp_of(pid_t tid)
{
	char path[64], text[4096] = "", *line;
	int fd;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	fd = MUST(open(path, O_RDONLY));
	MUST(read(fd, text, sizeof(text) - 1));
	close(fd);
	line = strstr(text, "\nSeccomp:\t");
	return line ? line[10] : '?';
}

static void *strict(void *tid)
{
	char byte;

	*(pid_t *)tid = gettid();
	EQUAL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), 0);
	prepared++;
	if (read(go_pipe[0], &byte, 1) == 1)
		write(done_pipe[1], "s", 1);
	syscall(SYS_exit, 0);
	return NULL;
}

static void *filtered(void *tid)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 99),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {4, code};
	char byte;

	*(pid_t *)tid = gettid();
	EQUAL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), 0);
	prepared++;
	EQUAL(read(go_pipe[0], &byte, 1), 1);
	EQUAL(prctl(PR_GET_DUMPABLE), -1);
	EQUAL(errno, 99);
	EQUAL(write(done_pipe[1], "f", 1), 1);
	return NULL;
}

int main(int argc, char **argv)
{
	pid_t tids[2];
	char byte;

	check_init(argc, argv);
	MUST(pipe(go_pipe));
	MUST(pipe(done_pipe));
	EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	thread_start(strict, &tids[0]);
	thread_start(filtered, &tids[1]);
	while (prepared < 2)
		check_nap();
	check_ready_and_wait();
	EQUAL(seccomp_of(tids[0]), '1');
	EQUAL(seccomp_of(tids[1]), '2');
	EQUAL(seccomp_of(gettid()), '0');
	EQUAL(write(go_pipe[1], "gg", 2), 2);
	EQUAL(read(done_pipe[0], &byte, 1), 1);
	EQUAL(read(done_pipe[0], &byte, 1), 1);
	return check_pass();
}
