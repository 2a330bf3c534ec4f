// The first thread has ended (pthread_exit in main), three others go on with memory, files and signals.
#include "ended.h"
#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define PAGES 256
#define PAGE 4096
#define THREADS 4 /* with the first */

static _Atomic bool go;
static _Atomic long stored;
static volatile long *memory;
static int file, ends[2];
static pthread_t writer, waiter;
static bool ends_later; /* when DIR/end is there: for tests of a move that is under way */

/* Page after page gets the number of the round; so at any moment there are two of them at most. */
static void *store(void *argument)
{
	for (long round = 1; !go; round++) {
		for (int page = 0; page < PAGES; page++)
			memory[page * PAGE / sizeof(long)] = round;
		stored = round;
		sched_yield();
	}
	return argument;
}

static void *wait_with_signals(void *argument)
{
	const struct timespec none = {0};
	sigset_t *mask = argument;
	siginfo_t info;

	EQUAL(pthread_kill(pthread_self(), SIGUSR1), 0);
	while (!go)
		check_nap();
	EQUAL(sigtimedwait(mask, &info, &none), SIGUSR1);
	return NULL;
}

static void check_memory(void)
{
	for (int page = 0; page < PAGES; page++)
		EQUAL(memory[page * PAGE / sizeof(long)], stored);
}

static void check_signals(const sigset_t *mask)
{
	const struct timespec none = {0};
	siginfo_t info;

	for (int i = 0; i < 3; i++) {
		EQUAL(sigtimedwait(mask, &info, &none), SIGRTMIN + 3);
		EQUAL(info.si_value.sival_int, 100 + i);
	}
	EQUAL(sigtimedwait(mask, &info, &none), -1);
	EQUAL(errno, EAGAIN);
}

static void check_files(void)
{
	char text[8] = "";

	EQUAL(lseek(file, 0, SEEK_CUR), 3);
	EQUAL(read(file, text, 3), 3);
	EQUAL(memcmp(text, "def", 3), 0);
	EQUAL(read(ends[0], text, 4), 4);
	EQUAL(memcmp(text, "pipe", 4), 0);
	EQUAL(fcntl(ends[0], F_GETOWN), getpid());
}

static void check_threads(void)
{
	DIR *folder = opendir("/proc/self/task");
	char name[32] = "";
	int count = 0, fd;

	while (readdir(folder))
		count++;
	closedir(folder);
	EQUAL(count - 2, THREADS);
	leader_wait_ended();
	snprintf(name, sizeof(name), "/proc/%d/comm", getpid());
	fd = MUST(open(name, O_RDONLY));
	MUST(read(fd, name, sizeof(name)));
	close(fd);
	CHECK(strncmp(name, "was first\n", 10) == 0);
}

static void *check(void *argument)
{
	sigset_t *mask = argument;

	if (!ends_later)
		leader_wait_ended();
	check_ready_and_wait();
	check_threads();
	go = true;
	thread_join(writer);
	thread_join(waiter);
	check_memory();
	check_signals(mask);
	check_files();
	_exit(check_pass());
}

int main(int argc, char **argv)
{
	static sigset_t mask;
	union sigval with;

	check_init(argc, argv);
	ends_later = argc > 2;
	memory = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	file = MUST(open(in_dir("file"), O_RDWR | O_CREAT, 0600));
	EQUAL(write(file, "abcdef", 6), 6);
	EQUAL(lseek(file, 3, SEEK_SET), 3);
	MUST(pipe(ends));
	EQUAL(write(ends[1], "pipe", 4), 4);
	MUST(fcntl(ends[0], F_SETOWN, getpid()));
	sigfillset(&mask);
	sigdelset(&mask, SIGCONT); /* what a stop needs to end is not kept */
	EQUAL(pthread_sigmask(SIG_SETMASK, &mask, NULL), 0);
	for (with.sival_int = 100; with.sival_int < 103; with.sival_int++)
		EQUAL(sigqueue(getpid(), SIGRTMIN + 3, with), 0);
	writer = thread_start(store, NULL);
	waiter = thread_start(wait_with_signals, &mask);
	thread_start(check, &mask);
	MUST(prctl(PR_SET_NAME, "was first"));
	while (ends_later && access(in_dir("end"), F_OK) < 0)
		check_nap();
	pthread_exit(NULL);
}
