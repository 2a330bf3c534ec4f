// Signals that come while it is stopped are delivered when it goes on, each once and in order.
#include "check.h"
#include <signal.h>

static volatile int caught, next_caught;

static void on_signal(int number, siginfo_t *info, void *context)
{
	(void)number, (void)context;
	if (info->si_value.sival_int != next_caught)
		check_fail("caught number %d instead of %d", info->si_value.sival_int, next_caught);
	next_caught++;
	caught++;
}

int main(int argc, char **argv)
{
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART};
	const struct timespec none = {0}, nap = {.tv_nsec = NAP_NS};
	siginfo_t info;
	sigset_t mask;
	char text[64];
	int blocked;

	check_init(argc, argv);
	sigemptyset(&mask);
	sigaddset(&mask, SIGRTMIN + 5);
	EQUAL(sigprocmask(SIG_BLOCK, &mask, NULL), 0);
	EQUAL(sigaction(SIGRTMIN + 6, &action, NULL), 0);
	check_ready();
	while (!check_go())
		nanosleep(&nap, NULL);
	for (blocked = 0; sigtimedwait(&mask, &info, &none) > 0; blocked++)
		EQUAL(info.si_value.sival_int, blocked);
	snprintf(text, sizeof(text), "%d %d", blocked, caught);
	check_publish("counted", text);
	return check_pass();
}
