// Children have rights, limits, masks, directories and threads of their own, none of them their parent's.
// requires: root
#include "tree.h"
#include <sys/resource.h>
#include <sys/stat.h>

static pthread_barrier_t together;

static void *be_there(void *unused)
{
	pthread_barrier_wait(&together);
	return unused;
}

static void live_as(int number)
{
	struct rlimit limit = {100 + number, 200 + number};
	char here[PATH_MAX];
	pthread_t thread;
	uid_t user = 4000 + number;

	MUST(chdir(number ? "/usr" : "/etc"));
	umask(number ? 007 : 070);
	MUST(setrlimit(RLIMIT_NPROC, &limit));
	MUST(setresgid(user, user, user));
	MUST(setresuid(user, user, user));
	EQUAL(pthread_barrier_init(&together, NULL, 2), 0);
	thread = thread_start(be_there, NULL);
	tree_wait();
	pthread_barrier_wait(&together);
	thread_join(thread);
	EQUAL(getuid(), user);
	EQUAL(getegid(), user);
	MUST(getrlimit(RLIMIT_NPROC, &limit));
	EQUAL(limit.rlim_cur, 100 + number);
	CHECK(getcwd(here, sizeof(here)) && strcmp(here, number ? "/usr" : "/etc") == 0);
	EQUAL(umask(0), number ? 007 : 070);
	_exit(0);
}

int main(int argc, char **argv)
{
	pid_t children[2];

	tree_init(argc, argv);
	for (int i = 0; i < 2; i++) {
		children[i] = MUST(fork());
		if (children[i] == 0)
			live_as(i);
	}
	tree_ready_and_wait(2);
	EQUAL(geteuid(), 0);
	tree_join(children[0]);
	tree_join(children[1]);
	return check_pass();
}
