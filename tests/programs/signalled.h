/* For calls that only a signal can end: the thread tells an EINTR of ours from a stray one. */
#ifndef SIGNALLED_H
#define SIGNALLED_H

#include "blocked.h"

static volatile sig_atomic_t handled;

static inline void on_signal(int number)
{
	handled = number;
}

static inline void signalled_prepare(void)
{
	struct sigaction action = {.sa_handler = on_signal};

	MUST(sigaction(SIGUSR1, &action, NULL));
}

static inline void signalled_wake_up(void)
{
	EQUAL(pthread_kill(blocked_thread, SIGUSR1), 0);
}

#endif
