// A signal ends calls that the kernel never restarts with EINTR, whether it comes before, during or after a stop.
#include "several.h"
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/time.h>

static const struct timespec hour = {.tv_sec = LONG_S};
static int set, semaphores, ends[2];

static void remove_semaphores(void)
{
	semctl(semaphores, 0, IPC_RMID);
}

static long wait_for_event(void)
{
	struct epoll_event event;

	return result_of(syscall(SYS_epoll_wait, set, &event, 1, -1));
}

static long lower_semaphore(void)
{
	struct sembuf lower = {.sem_op = -1};

	return result_of(semtimedop(semaphores, &lower, 1, &hour));
}

static long wait_for_signal(void)
{
	sigset_t other;

	sigemptyset(&other);
	sigaddset(&other, SIGUSR2);
	return result_of(sigtimedwait(&other, NULL, &hour));
}

static long receive(void)
{
	char byte;

	return result_of(recv(ends[0], &byte, 1, 0));
}

static const struct several all[] = {
	{"epoll_wait", SYS_epoll_wait, wait_for_event, NULL, 0},
	{"semtimedop", SYS_semtimedop, lower_semaphore, NULL, 0},
	{"sigtimedwait", SYS_rt_sigtimedwait, wait_for_signal, NULL, 0},
	{"recv with a timeout", SYS_recvfrom, receive, NULL, 0},
};

int main(int argc, char **argv)
{
	const struct timeval timeout = {.tv_sec = LONG_S};

	check_init(argc, argv);
	set = MUST(epoll_create1(0));
	semaphores = MUST(semget(IPC_PRIVATE, 1, 0600));
	MUST(atexit(remove_semaphores));
	check_on_fail = remove_semaphores;
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
	MUST(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)));
	return run_several(all, sizeof(all) / sizeof(all[0]));
}
