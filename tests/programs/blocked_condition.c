// A thread in pthread_cond_wait is not woken by the move, but by the signal given after it.
#include "blocked.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static bool signalled;

static void prepare(void)
{
}

static long blocked_call(void)
{
	pthread_mutex_lock(&mutex);
	while (!signalled)
		pthread_cond_wait(&condition, &mutex);
	pthread_mutex_unlock(&mutex);
	return 1;
}

static void wake_up(void)
{
	pthread_mutex_lock(&mutex);
	signalled = true;
	pthread_cond_signal(&condition);
	pthread_mutex_unlock(&mutex);
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_futex, 1);
}
