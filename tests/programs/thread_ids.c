// Every thread keeps its thread id, and the process its pid, session and process group.
#include "check.h"

#define THREADS 5

static _Atomic int prepared;
static _Atomic bool go;

static void *keep_tid(void *unused)
{
	pid_t tid = gettid();

	prepared++;
	while (!go)
		check_nap();
	EQUAL(gettid(), tid);
	return unused;
}

int main(int argc, char **argv)
{
	pid_t pid = getpid(), session = getsid(0), group = getpgid(0);
	pthread_t threads[THREADS];

	check_init(argc, argv);
	for (int i = 0; i < THREADS; i++)
		threads[i] = thread_start(keep_tid, NULL);
	while (prepared < THREADS)
		check_nap();
	check_ready_and_wait();
	EQUAL(getpid(), pid);
	EQUAL(getsid(0), session);
	EQUAL(getpgid(0), group);
	go = true;
	for (int i = 0; i < THREADS; i++)
		thread_join(threads[i]);
	return check_pass();
}
