// The process name and the names of its threads are kept.
#include "check.h"
#include <sys/prctl.h>

static _Atomic bool prepared, go;

static void *named_thread(void *unused)
{
	char name[16] = "";

	MUST(prctl(PR_SET_NAME, "a (thread) name"));
	prepared = true;
	while (!go)
		check_nap();
	MUST(prctl(PR_GET_NAME, name));
	CHECK(strcmp(name, "a (thread) name") == 0);
	return unused;
}

int main(int argc, char **argv)
{
	char name[16] = "";
	pthread_t thread;

	check_init(argc, argv);
	MUST(prctl(PR_SET_NAME, ") R 1 odd\tname"));
	thread = thread_start(named_thread, NULL);
	while (!prepared)
		check_nap();
	check_ready_and_wait();
	MUST(prctl(PR_GET_NAME, name));
	CHECK(strcmp(name, ") R 1 odd\tname") == 0);
	go = true;
	thread_join(thread);
	return check_pass();
}
