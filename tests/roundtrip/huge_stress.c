// Tasks that store to huge pages that they share, in every way, while somebody copies them from outside; some come and go.
// Prints "ready" and works until it is killed. Needs 32 huge pages of 2 MiB.
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

#define HUGE (2UL << 20)
#define PAGES 8UL
#define BUSY (PAGES / 4 * 3) /* what comes after is stored to rarely: what is lost there stays lost */
#define SIZE (PAGES * HUGE)

enum { ANONYMOUS, SYSV, MEMFD, FILE_MAPPED, MAPPINGS };
static char *mappings[MAPPINGS];
static int sysv, file;

static char *busy_page(uint64_t r)
{
	return mappings[r % MAPPINGS] + r / 8 % BUSY * HUGE;
}

static char *quiet_page(uint64_t r)
{
	return mappings[r % MAPPINGS] + (BUSY + r / 8 % (PAGES - BUSY)) * HUGE;
}

static void store_by_kernel(char *word, uint64_t r)
{
	struct iovec from = {&r, sizeof(r)}, to = {word, sizeof(r)};

	if (r & 1)
		MUST(getrandom(word, sizeof(r), 0));
	else
		MUST(process_vm_writev(getpid(), &from, 1, &to, 1, 0));
}

/* One step at a huge page. */
static void touch(char *page, uint64_t r)
{
	volatile uint64_t *word = (volatile uint64_t *)(page + r / 64 % (HUGE / 8) * 8);

	switch (r % 64) {
	case 0:
		MUST(madvise(page, HUGE, MADV_DONTNEED));
		break;
	case 1:
		MUST(madvise(page, HUGE, MADV_REMOVE));
		break;
	case 2 ... 5:
		MUST(madvise(page, HUGE, MADV_REMOVE));
		(void)*word;
		break;
	case 6 ... 9:
		(void)*word;
		break;
	case 10:
		memset(page, (int)r, HUGE);
		break;
	case 11 ... 14:
		store_by_kernel((char *)word, r);
		break;
	case 15 ... 18:
		*word = r;
		MUST(madvise(page, HUGE, MADV_DONTNEED));
		break;
	default:
		*word = r;
	}
}

static void *store(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	for (;;) {
		uint64_t r = next(&random);

		touch(busy_page(r), next(&random));
		if (r / 64 % 256 == 0)
			touch(quiet_page(r / 4096), next(&random));
		usleep(r / 64 % 4096);
	}
	return NULL;
}

static void store_in_child(uint64_t r)
{
	pid_t child = MUST(fork());

	if (child) {
		MUST(waitpid(child, NULL, 0));
		return;
	}
	MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
	for (int i = 0; i < 4; i++) {
		uint64_t value = next(&r);

		touch(quiet_page(value), next(&r));
	}
	_exit(0);
}

static void map_and_go(uint64_t *random)
{
	uint64_t r = next(random);
	char *here = MUST(r & 1 ? mmap(NULL, SIZE, READ_WRITE, MAP_SHARED, file, 0) : shmat(sysv, NULL, 0));

	if (r & 2)
		usleep(r / 4 % 524288);
	for (int i = 0; i < 4; i++) {
		uint64_t value = next(random);

		touch(here + (BUSY + value % (PAGES - BUSY)) * HUGE, next(random));
	}
	MUST(r & 1 ? munmap(here, SIZE) : shmdt(here));
}

static void *change(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	for (;;) {
		uint64_t r = next(&random);

		if (r & 1)
			store_in_child(r);
		else
			map_and_go(&random);
		if (r % 8 == 3)
			MUST(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, r / 64 % PAGES * HUGE, HUGE));
		usleep(r / 64 % 400000);
	}
	return NULL;
}

static void map_all(void)
{
	int memfd = MUST(memfd_create("huge-stress", MFD_HUGETLB));

	file = MUST(memfd_create("huge-stress-file", MFD_HUGETLB));
	MUST(ftruncate(memfd, SIZE));
	MUST(ftruncate(file, SIZE));
	sysv = MUST(shmget(IPC_PRIVATE, SIZE, IPC_CREAT | SHM_HUGETLB | 0600));
	mappings[ANONYMOUS] = MUST(mmap(NULL, SIZE, READ_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
	mappings[SYSV] = MUST(shmat(sysv, NULL, 0));
	mappings[MEMFD] = MUST(mmap(NULL, SIZE, READ_WRITE, MAP_SHARED, memfd, 0));
	mappings[FILE_MAPPED] = MUST(mmap(NULL, SIZE, READ_WRITE, MAP_SHARED, file, 0));
	close(memfd);
	MUST(shmctl(sysv, IPC_RMID, NULL)); /* goes with us, and can be attached until then */
	for (int which = 0; which < MAPPINGS; which++)
		memset(mappings[which], which + 1, SIZE / 8 * 7);
}

int main(void)
{
	void *(*const work[])(void *) = {store, store, change};
	pthread_t threads[3];
	uint64_t seed;

	MUST(getrandom(&seed, sizeof(seed), 0));
	seed |= 1;
	map_all();
	dprintf(1, "ready\n");
	MUST(dup2(MUST(open("/dev/null", O_RDWR)), 1));
	for (uint64_t i = 1; i <= 2; i++)
		if (!MUST(fork())) {
			MUST(prctl(PR_SET_PDEATHSIG, SIGKILL));
			store((void *)(uintptr_t)(seed + 2 * i));
		}
	for (uint64_t i = 0; i < 3; i++)
		if (pthread_create(&threads[i], NULL, work[i], (void *)(uintptr_t)(seed + 100 + 2 * i)))
			return 2;
	pause();
	return 0;
}
