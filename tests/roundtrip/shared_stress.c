// Tasks that store to shared memory in every way, while somebody copies it from outside: `shared_stress HOW`, calm, wild
// (they also come and go, map it anew and move their mappings) or drops (one alone, which unmaps what it has stored to).
// Prints "ready" and works until it is killed.
#define _GNU_SOURCE
#include "stress.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/shm.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define PAGES 1024UL
#define BUSY (PAGES / 4 * 3) /* what comes after is stored to rarely: what is lost there stays lost */
#define SIZE (PAGES * PAGE)

/* The same memory may be mapped twice; `file` is a memfd that stays open. */
static char *mappings[7];
static int sysv, file, wild;
enum { ANONYMOUS, SYSV, MEMFD, MEMFD_AGAIN, TMPFS, FILE_MAPPED, FILE_HALF, MAPPINGS };

/* The second mapping of the file begins in its middle. */
static char *some_page(uint64_t r)
{
	int which = r % MAPPINGS;

	return mappings[which] + r / 8 % (which == FILE_HALF ? BUSY - PAGES / 2 : BUSY) * PAGE;
}

static uint64_t quiet_offset(uint64_t r)
{
	return (BUSY + r % (PAGES - BUSY)) * PAGE;
}

static void store_by_kernel(char *page, uint64_t r)
{
	char source[300];
	struct iovec from = {source, sizeof(source)}, to = {page + r % 3000, sizeof(source)};
	int zero;

	if (r & 4096) {
		getrandom(to.iov_base, to.iov_len, 0);
		return;
	}
	memset(source, (int)r, sizeof(source));
	if (r & 8192) {
		process_vm_writev(getpid(), &from, 1, &to, 1, 0);
		return;
	}
	zero = MUST(open("/dev/zero", O_RDONLY));
	(void)!read(zero, page, 700);
	close(zero);
}

/* One step. */
static void step(uint64_t *random)
{
	uint64_t r = next(random);
	char *page = some_page(r / 64);

	switch (r % 64) {
	case 0:
		MUST(madvise(page, PAGE, MADV_DONTNEED));
		break;
	case 1:
		if (r & 64)
			MUST(madvise(page, PAGE, MADV_REMOVE));
		break;
	case 2 ... 9:
		*(volatile char *)page;
		break;
	case 10:
		memset(page, (int)r, PAGE);
		break;
	case 11 ... 14:
		store_by_kernel(page, r / 64);
		break;
	case 15:
		*(volatile uint64_t *)page = r;
		MUST(madvise(page, PAGE, MADV_DONTNEED));
		break;
	default:
		*(volatile uint64_t *)(page + r / 4096 % 512 * 8) = r;
	}
	if (r / 64 % 64 == 0)
		usleep(r / 4096 % 4096);
}

static void *store(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	for (;;)
		step(&random);
	return NULL;
}

static void work_as_child(uint64_t seed)
{
	MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
	store((void *)(uintptr_t)seed);
}

static void store_in_child(uint64_t r, int deep)
{
	pid_t child = MUST(fork());

	if (child) {
		MUST(waitpid(child, NULL, 0));
		return;
	}
	MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
	if (deep)
		store_in_child(r * 3, 0);
	for (int i = 0; i < 8; i++) {
		uint64_t value = next(&r);

		*(volatile uint64_t *)(mappings[value % FILE_MAPPED] + quiet_offset(value / 8)) = value;
		step(&r);
	}
	_exit(0);
}

static void map_and_go(uint64_t *random)
{
	uint64_t r = next(random);
	int fd = r & 1;
	char *here = MUST(fd ? mmap(NULL, SIZE, READ_WRITE, MAP_SHARED, file, 0) : shmat(sysv, NULL, 0));

	if (r & 2)
		usleep(r / 4 % 524288);
	for (int i = 0; i < 8; i++, r = next(random)) {
		volatile uint64_t *word = (volatile uint64_t *)(here + quiet_offset(r));

		(void)*word;
		*word = r;
	}
	MUST(fd ? munmap(here, SIZE) : shmdt(here));
}

/* Nobody else may use this mapping: it is away for a while. An mremap may answer EFAULT while it is tracked. */
static void move_there_and_back(char *alone, char *away, uint64_t r)
{
	uint64_t half = SIZE / 2;

	if (mremap(alone + half, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, away) == MAP_FAILED)
		return;
	*(volatile uint64_t *)(away + r / 8 % (PAGES / 2) * PAGE) = r;
	if (r & 1)
		usleep(r / 8 % 65536);
	if (mremap(away, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, alone + half) == MAP_FAILED)
		_exit(3);
}

static void *change(void *seed)
{
	uint64_t random = (uintptr_t)seed;
	char *alone = MUST(mmap(NULL, SIZE, READ_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	char *away = MUST(mmap(NULL, SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	for (;;) {
		uint64_t r = next(&random);

		switch (r % 8) {
		case 0:
			store_in_child(r, r & 64);
			break;
		case 1:
			map_and_go(&random);
			break;
		case 2:
			move_there_and_back(alone, away, r / 64);
			break;
		default:
			*(volatile uint64_t *)(alone + r / 8 % PAGES * PAGE) = r;
		}
		usleep(r / 64 % (r & 8 ? 400000 : 1000));
	}
	return NULL;
}

static void *write_file(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	for (;;) {
		uint64_t r = next(&random);
		off_t at = r & 1 << 20 ? quiet_offset(r / 8) : r / 8 % PAGES * PAGE;

		if (r % 8)
			MUST(pwrite(file, &r, sizeof(r), at + r % 4000));
		else
			MUST(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, PAGE));
		if (r % 64 == 9) {
			MUST(ftruncate(file, SIZE - PAGE * 8));
			MUST(ftruncate(file, SIZE));
		}
		usleep(r / 64 % (r & 8 ? 400000 : 1000));
	}
	return NULL;
}

/* A store to what ftruncate has just taken away: the last pages are there again the next time. */
static void again(int signal_number)
{
	(void)signal_number;
	usleep(100);
}

/* What was stored to is mapped again by a read, or by one beside it, and looks as if nobody had. */
static void drop(uint64_t seed)
{
	for (uint64_t random = seed;;) {
		uint64_t r = next(&random);
		char *page = mappings[r % FILE_MAPPED] + r / 8 % PAGES * PAGE;

		if (r / 8192 % 4)
			*(volatile uint64_t *)page = r;
		MUST(madvise(page, PAGE, r / 8192 % 4 ? MADV_DONTNEED : MADV_REMOVE));
		(void)*(volatile char *)page;
		usleep(r / 32768 % 1024);
	}
}

static void map_all(void)
{
	int memfd = MUST(memfd_create("stress", 0));
	int tmpfs = MUST(open("/dev/shm", O_TMPFILE | O_RDWR, 0600));

	file = MUST(memfd_create("stress-file", 0));
	MUST(ftruncate(tmpfs, SIZE));
	MUST(ftruncate(memfd, SIZE));
	MUST(ftruncate(file, SIZE));
	sysv = MUST(shmget(IPC_PRIVATE, SIZE, IPC_CREAT | 0600));
	mappings[ANONYMOUS] = MUST(mmap(NULL, SIZE, READ_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	mappings[SYSV] = MUST(shmat(sysv, NULL, 0));
	mappings[MEMFD] = MUST(mmap(NULL, SIZE, READ_WRITE, MAP_SHARED, memfd, 0));
	mappings[MEMFD_AGAIN] = MUST(mmap(NULL, SIZE, READ_WRITE, MAP_SHARED, memfd, 0));
	mappings[FILE_MAPPED] = MUST(mmap(NULL, SIZE, READ_WRITE, MAP_SHARED, file, 0));
	mappings[FILE_HALF] = MUST(mmap(NULL, SIZE / 2, READ_WRITE, MAP_SHARED, file, SIZE / 2));
	mappings[TMPFS] = MUST(mmap(NULL, SIZE, READ_WRITE, MAP_SHARED, tmpfs, 0));
	close(memfd);
	close(tmpfs);
	MUST(shmctl(sysv, IPC_RMID, NULL)); /* goes with us, and can be attached until then */
	for (int which = 0; which < FILE_MAPPED; which++)
		memset(mappings[which], which + 1, SIZE / 8 * 7);
}

int main(int argc, char **argv)
{
	void *(*const work[])(void *) = {store, store, write_file, change};
	pthread_t threads[4];
	uint64_t seed;

	wild = argc > 1 && !strcmp(argv[1], "wild");
	signal(SIGBUS, again);
	MUST(getrandom(&seed, sizeof(seed), 0));
	seed |= 1;
	map_all();
	dprintf(1, "ready\n");
	MUST(dup2(MUST(open("/dev/null", O_RDWR)), 1));
	if (argc > 1 && !strcmp(argv[1], "drops"))
		drop(seed);
	for (uint64_t i = 1; i <= 2; i++)
		if (!MUST(fork()))
			work_as_child(seed + 2 * i);
	for (uint64_t i = 0; i < (wild ? 4 : 3); i++)
		if (pthread_create(&threads[i], NULL, work[i], (void *)(uintptr_t)(seed + 100 + 2 * i)))
			return 2;
	pause();
	return 0;
}
