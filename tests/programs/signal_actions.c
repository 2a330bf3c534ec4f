// Handlers, flags, masks and restorers of all signals are kept, and a handler works after the move.
#include "check.h"
#include <signal.h>
#include <sys/syscall.h>

struct kernel_action {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

static const int flag_sets[] = {SA_SIGINFO, SA_NODEFER, SA_ONSTACK | SA_RESTART, SA_RESETHAND, 0};
static volatile sig_atomic_t last_signal, last_value;

static void on_signal(int number, siginfo_t *siginfo, void *unused)
{
	(void)unused;
	last_signal = number;
	last_value = siginfo->si_value.sival_int;
}

static struct kernel_action action_of(int number)
{
	struct kernel_action action = {};

	MUST(syscall(SYS_rt_sigaction, number, NULL, &action, sizeof(action.mask)));
	return action;
}

int main(int argc, char **argv)
{
	struct kernel_action before[65] = {}, after;

	check_init(argc, argv);
	for (int number = 1; number <= SIGRTMAX; number++) {
		struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = flag_sets[number % 5]};

		sigaddset(&action.sa_mask, number % 31 + 1);
		if (number % 7 == 0)
			action.sa_handler = SIG_IGN;
		if (number == SIGRTMIN)
			action.sa_flags = SA_SIGINFO;
		sigaction(number, &action, NULL); /* refused for SIGKILL, SIGSTOP and the library's two */
		before[number] = action_of(number);
	}
	check_ready_and_wait();
	for (int number = 1; number <= 64; number++) {
		after = action_of(number);
		if (number <= SIGRTMAX && memcmp(&after, &before[number], sizeof(after)))
			check_fail("signal %d: handler %p flags %#lx, was %p %#lx", number, after.handler, after.flags,
				   before[number].handler, before[number].flags);
	}
	MUST(sigqueue(getpid(), SIGRTMIN, (union sigval){.sival_int = 77}));
	EQUAL(last_signal, SIGRTMIN);
	EQUAL(last_value, 77);
	return check_pass();
}
