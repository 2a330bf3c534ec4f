// A signal descriptor keeps its mask: it gives the signals named there, with their values, and no other.
#include "check.h"
#include <signal.h>
#include <sys/signalfd.h>

int main(int argc, char **argv)
{
	struct signalfd_siginfo siginfo;
	sigset_t blocked, wanted;
	int fd;

	check_init(argc, argv);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	sigaddset(&blocked, SIGUSR2);
	sigaddset(&blocked, SIGRTMIN + 3);
	wanted = blocked;
	sigdelset(&wanted, SIGUSR2);
	MUST(sigprocmask(SIG_BLOCK, &blocked, NULL));
	fd = MUST(signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC));
	check_ready_and_wait();
	EQUAL(read(fd, &siginfo, sizeof(siginfo)), -1);
	EQUAL(errno, EAGAIN);
	MUST(kill(getpid(), SIGUSR2));
	EQUAL(read(fd, &siginfo, sizeof(siginfo)), -1);
	MUST(sigqueue(getpid(), SIGRTMIN + 3, (union sigval){.sival_int = 99}));
	EQUAL(read(fd, &siginfo, sizeof(siginfo)), sizeof(siginfo));
	EQUAL(siginfo.ssi_signo, SIGRTMIN + 3);
	EQUAL(siginfo.ssi_int, 99);
	MUST(kill(getpid(), SIGUSR1));
	EQUAL(read(fd, &siginfo, sizeof(siginfo)), sizeof(siginfo));
	EQUAL(siginfo.ssi_signo, SIGUSR1);
	return check_pass();
}
