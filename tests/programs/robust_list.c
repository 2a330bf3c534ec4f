// A robust mutex tells the next owner when a thread dies holding it: the kernel still knows the thread's list.
#include "check.h"
#include <sys/syscall.h>

static pthread_mutex_t mutex;
static _Atomic bool locked, go;

static void *die_holding(void *unused)
{
	EQUAL(pthread_mutex_lock(&mutex), 0);
	locked = true;
	while (!go)
		check_nap();
	syscall(SYS_exit, 0); /* past the library, straight to the kernel */
	return unused;
}

int main(int argc, char **argv)
{
	pthread_mutexattr_t attributes;
	pthread_t thread;

	check_init(argc, argv);
	EQUAL(pthread_mutexattr_init(&attributes), 0);
	EQUAL(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST), 0);
	EQUAL(pthread_mutex_init(&mutex, &attributes), 0);
	thread = thread_start(die_holding, NULL);
	while (!locked)
		check_nap();
	check_ready_and_wait();
	EQUAL(pthread_mutex_trylock(&mutex), EBUSY);
	go = true;
	thread_join(thread);
	EQUAL(pthread_mutex_trylock(&mutex), EOWNERDEAD);
	EQUAL(pthread_mutex_consistent(&mutex), 0);
	EQUAL(pthread_mutex_unlock(&mutex), 0);
	return check_pass();
}
