// What is measured: `target BOARD memory MIB`, `writer MIB PACE_NS`, `shared MIB PACE_NS` (a writer to shared memory),
// `threads N`, `tree N` or `files N`: N tasks, each with FILES descriptors, half of them inherited, half of them open
// files of its own that look alike. Waits to be killed.
//
// BOARD is a file mapped shared: the only way it is talked to. A writer never sleeps: it writes one word into the next
// page every PACE_NS, counts that, and notes the longest time between two looks at the clock.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { FIRST = 10, FILES = 100 };

struct board {
	volatile uint64_t ready, longest_ns, written, address;
};

static struct board *board;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static char *random_memory(size_t size, int sharing)
{
	uint64_t *words = mmap(NULL, size, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
	uint64_t state = 88172645463325252ull;

	if (words == MAP_FAILED)
		_exit(2);
	madvise(words, size, MADV_NOHUGEPAGE);
	for (size_t at = 0; at < size / 8; at++) {
		state ^= state << 13, state ^= state >> 7, state ^= state << 17;
		words[at] = state;
	}
	board->address = (uintptr_t)words;
	return (char *)words;
}

static void write_forever(char *memory, size_t size, uint64_t pace_ns)
{
	uint64_t last = now_ns(), due = last;

	for (size_t at = 0;;) {
		uint64_t now = now_ns();

		if (now - last > board->longest_ns)
			board->longest_ns = now - last;
		last = now;
		if (now < due)
			continue;
		due = now + pace_ns;
		++*(volatile uint64_t *)(memory + at);
		board->written++;
		at = (at + 4096) % size;
	}
}

static void *sleeping_thread(void *none)
{
	for (;;)
		pause();
	return none;
}

static void make_threads(int count)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	for (int made = 1; made < count; made++)
		if (pthread_create(&thread, &small, sleeping_thread, NULL))
			_exit(3);
}

static void open_files(const char *path, int first, int count)
{
	for (int fd = first; fd < first + count; fd++) {
		int opened = open(path, O_RDONLY);

		if (opened < 0 || dup2(opened, fd) != fd)
			_exit(5);
		close(opened);
	}
}

static void make_tree(int count, const char *path)
{
	if (path)
		open_files(path, FIRST, FILES / 2);
	for (int made = 1; made < count; made++) {
		pid_t child = fork();

		if (child < 0)
			_exit(4);
		if (child)
			continue;
		if (path)
			open_files(path, FIRST + FILES / 2, FILES / 2);
		__atomic_fetch_add(&board->written, 1, __ATOMIC_SEQ_CST);
		sleeping_thread(NULL);
	}
	if (path)
		open_files(path, FIRST + FILES / 2, FILES / 2);
	while (board->written < (uint64_t)count - 1)
		sched_yield();
}

int main(int argc, char **argv)
{
	int fd = argc < 4 ? -1 : open(argv[1], O_RDWR | O_CLOEXEC);
	const char *mode = argc < 4 ? "" : argv[2];

	if (fd < 0)
		return 1;
	board = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	long amount = atol(argv[3]);
	char *memory = NULL;
	if (!strcmp(mode, "memory") || !strcmp(mode, "writer"))
		memory = random_memory(amount << 20, MAP_PRIVATE);
	else if (!strcmp(mode, "shared"))
		memory = random_memory(amount << 20, MAP_SHARED);
	else if (!strcmp(mode, "threads"))
		make_threads(amount);
	else
		make_tree(amount, strcmp(mode, "files") ? NULL : argv[1]);
	board->ready = 1;
	if (memory && argc > 4)
		write_forever(memory, amount << 20, atol(argv[4]));
	sleeping_thread(NULL);
}
