// Blocked signals stay queued, for the process and for each thread, in order and with their siginfo.
#include "check.h"
#include <signal.h>

#define COUNT 40
#define FIRST (SIGRTMIN + 3)

static _Atomic bool prepared, go;

static void queue(pid_t tid, int number, int value)
{
	union sigval with = {.sival_int = value};
	pthread_t self = pthread_self();

	EQUAL(tid ? pthread_sigqueue(self, number, with) : sigqueue(getpid(), number, with), 0);
}

/* Lowest signal first, each kind in the order of its queueing. */
static void take(const sigset_t *mask, int number, int code, int value)
{
	const struct timespec none = {0};
	siginfo_t info;

	EQUAL(sigtimedwait(mask, &info, &none), number);
	EQUAL(info.si_code, code);
	EQUAL(info.si_pid, getpid());
	EQUAL(info.si_uid, getuid());
	if (code == SI_QUEUE)
		EQUAL(info.si_value.sival_int, value);
}

static void *own_queue(void *argument)
{
	sigset_t *mask = argument;

	for (int i = 0; i < COUNT; i++)
		queue(gettid(), FIRST + 1, 1000 + i);
	EQUAL(pthread_kill(pthread_self(), SIGUSR2), 0);
	prepared = true;
	while (!go)
		check_nap();
	take(mask, SIGUSR2, SI_USER, 0); /* glibc says so for SI_TKILL */
	for (int i = 0; i < COUNT; i++)
		take(mask, FIRST + 1, SI_QUEUE, 1000 + i);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	sigset_t mask;

	check_init(argc, argv);
	sigfillset(&mask);
	EQUAL(pthread_sigmask(SIG_SETMASK, &mask, NULL), 0);
	thread = thread_start(own_queue, &mask);
	while (!prepared)
		check_nap();
	MUST(kill(getpid(), SIGURG)); /* ignored by default, but blocked */
	MUST(kill(getpid(), SIGTERM));
	for (int i = 0; i < COUNT; i++)
		queue(0, FIRST + i % 2 * 5, i);
	check_ready_and_wait();
	go = true;
	thread_join(thread);
	take(&mask, SIGTERM, SI_USER, 0);
	take(&mask, SIGURG, SI_USER, 0);
	for (int i = 0; i < COUNT; i += 2)
		take(&mask, FIRST, SI_QUEUE, i);
	for (int i = 1; i < COUNT; i += 2)
		take(&mask, FIRST + 5, SI_QUEUE, i);
	EQUAL(sigpending(&mask), 0);
	for (int number = 1; number <= SIGRTMAX; number++)
		EQUAL(sigismember(&mask, number) == 1, 0);
	return check_pass();
}
