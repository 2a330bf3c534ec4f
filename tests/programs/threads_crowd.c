// A thousand threads each find their number, name, signal mask, alternate stack, timer slack and thread-local memory.
// args: 1000
// tags: live
#include "check.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#define MOST 5000
#define STACK (64 * 1024)

static char stacks[MOST][8192];
static __thread long own = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int prepared, slacks = MOST;
static bool opened;

static int masked(long index)
{
	return SIGRTMIN + index % 20;
}

static void choose(long index)
{
	stack_t stack = {.ss_sp = stacks[index], .ss_size = sizeof(stacks[index])};
	char name[16];
	sigset_t mask;

	snprintf(name, sizeof(name), "crowd-%ld", index);
	MUST(prctl(PR_SET_NAME, name));
	sigemptyset(&mask);
	sigaddset(&mask, masked(index));
	EQUAL(pthread_sigmask(SIG_BLOCK, &mask, NULL), 0);
	MUST(sigaltstack(&stack, NULL));
	MUST(prctl(PR_SET_TIMERSLACK, 1000 + index % slacks));
	own = index;
}

static void check(long index)
{
	char name[16], expected[16];
	sigset_t mask;
	stack_t stack;

	snprintf(expected, sizeof(expected), "crowd-%ld", index);
	MUST(prctl(PR_GET_NAME, name));
	CHECK(!strcmp(name, expected));
	EQUAL(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
	for (int number = SIGRTMIN; number < SIGRTMIN + 20; number++)
		EQUAL(sigismember(&mask, number), number == masked(index));
	MUST(sigaltstack(NULL, &stack));
	CHECK(stack.ss_sp == stacks[index] && stack.ss_size == sizeof(stacks[index]) && stack.ss_flags == 0);
	EQUAL(prctl(PR_GET_TIMERSLACK), 1000 + index % slacks);
	EQUAL(own, index);
}

static void *one_of_many(void *argument)
{
	long index = (long)argument;
	pid_t tid = gettid();

	choose(index);
	pthread_mutex_lock(&lock);
	prepared++;
	pthread_cond_broadcast(&changed);
	while (!opened)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	EQUAL(gettid(), tid);
	EQUAL(syscall(SYS_tgkill, getpid(), tid, 0), 0);
	check(index);
	return argument;
}

int main(int argc, char **argv)
{
	static pthread_t threads[MOST];
	pthread_attr_t small;
	void *result;

	check_init(argc, argv);
	CHECK(argc == 3 || argc == 4);
	int count = atoi(argv[2]);
	CHECK(count <= MOST);
	if (argc == 4)
		slacks = atoi(argv[3]);
	EQUAL(pthread_attr_init(&small), 0);
	EQUAL(pthread_attr_setstacksize(&small, STACK), 0);
	for (long i = 0; i < count; i++)
		EQUAL(pthread_create(&threads[i], &small, one_of_many, (void *)i), 0);
	pthread_mutex_lock(&lock);
	while (prepared < count)
		pthread_cond_wait(&changed, &lock);
	pthread_mutex_unlock(&lock);
	check_ready_and_wait();
	pthread_mutex_lock(&lock);
	opened = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	for (long i = 0; i < count; i++) {
		EQUAL(pthread_join(threads[i], &result), 0);
		EQUAL((long)result, i);
	}
	return check_pass();
}
