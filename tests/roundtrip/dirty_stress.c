// Threads that store and change their address space at random, while somebody copies it from outside.
// stdin/stdout: prints "uffd FD" (-1: there is none), waits for a line, works, prints "stopped" after the next line,
// ends after a third.
#define _GNU_SOURCE
#include "stress.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define HUGE (1UL << 21)
#define STORE_PAGES 2048UL /* stored to from user mode */
#define HUGE_BYTES (2 * HUGE)
#define HUGETLB_PAGES 4UL
#define ALIKE_PAGES 256UL
#define SLOTS 48UL
#define SLOT_PAGES 16UL
#define SLOT_BYTES (SLOT_PAGES * PAGE)
#define AWAY 8UL   /* spare slots that others are moved to and back from */
#define CHAIN 64UL /* slots that are never mapped anew: they can merge again */
/* Where the kernel maps nothing by itself, as it begins from above: a slot that is away for a moment is nobody's. */
#define SLOTS_AT ((void *)(64UL << 30))
#define CHAIN_AT ((void *)(128UL << 30))
#define TABLES_AT ((char *)(192UL << 30))
#define TABLES_BYTES (2 * HUGE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)

static _Atomic int stop;
static char *plain, *huge, *slots, *chain, *file, *hugetlb, *alike;

/* Stores from user mode: single words, whole pages, drops, huge pages, a private file. */
static void *store(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	while (!stop) {
		uint64_t r = next(&random);
		char *page = plain + r / 64 % STORE_PAGES * PAGE;

		switch (r % 64) {
		case 0:
			MUST(madvise(page, PAGE, MADV_DONTNEED));
			break;
		case 1:
			memset(page, (int)r, PAGE);
			break;
		case 2:
			*(volatile char *)page;
			break;
		case 3:
			*(volatile uint64_t *)(file + r / 128 % SLOT_BYTES / 8 * 8) = r;
			if (r & 64)
				MUST(madvise(file + r / 1024 % SLOT_PAGES * PAGE, PAGE, MADV_DONTNEED));
			break;
		case 4 ... 8:
			*(volatile uint64_t *)(huge + r / 64 % HUGE_BYTES / 8 * 8) = r;
			break;
		default:
			*(volatile uint64_t *)(page + r / 1024 % 512 * 8) = r;
		}
	}
	return NULL;
}

/* Stores by the kernel, also where nothing may be stored: then they fail. */
static void *store_by_kernel(void *seed)
{
	uint64_t random = (uintptr_t)seed;
	int zero = MUST(open("/dev/zero", O_RDONLY));
	char source[2 * PAGE];

	while (!stop) {
		uint64_t r = next(&random);
		char *target = slots + r / 8 % ((SLOTS + AWAY) * SLOT_BYTES - sizeof(source));
		struct iovec from = {source, r / 8 % sizeof(source)}, to = {target, from.iov_len};

		memset(source, (int)r, sizeof(source));
		switch (r % 8) {
		case 0:
			getrandom(target, 256, 0);
			break;
		case 1:
			(void)!read(zero, target, from.iov_len);
			break;
		case 2:
			(void)!read(zero, plain + r / 8 % (STORE_PAGES * PAGE - PAGE), 300);
			break;
		default:
			process_vm_writev(getpid(), &from, 1, &to, 1, 0);
		}
	}
	close(zero);
	return NULL;
}

/* In huge pages of hugetlbfs, if there are any. */
static void *store_in_hugetlb(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	while (!stop && hugetlb) {
		uint64_t r = next(&random);
		char *page = hugetlb + r / 64 % HUGETLB_PAGES * HUGE;
		char *word = page + r / 1024 % (HUGE / 8) * 8;
		struct iovec from = {&r, sizeof(r)}, to = {word, sizeof(r)};

		switch (r % 64) {
		case 0:
			if (r & 64)
				*word = 1;
			MUST(madvise(page, HUGE, MADV_DONTNEED));
			if (r & 128)
				usleep(r / 256 % 65536);
			break;
		case 1:
			*(volatile char *)word;
			break;
		case 2:
			MUST(mmap(page, HUGE, READ_WRITE, ANONYMOUS | MAP_HUGETLB | MAP_FIXED, -1, 0));
			break;
		case 3 ... 9:
			process_vm_writev(getpid(), &from, 1, &to, 1, 0);
			break;
		default:
			*(volatile uint64_t *)word = r;
		}
		if (r >> 60 == 0)
			usleep(r / 64 % 4096);
	}
	return NULL;
}

/* Pages that are the same as others, which the kernel joins (KSM) where it was told to. */
static void *store_alike(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	while (!stop) {
		uint64_t r = next(&random);

		memset(alike + r / 4 % ALIKE_PAGES * PAGE, 1 + r % 4, PAGE);
		usleep(r / 4096 % 8192);
	}
	return NULL;
}

static void map_slot(char *slot)
{
	MUST(mmap(slot, SLOT_BYTES, READ_WRITE, ANONYMOUS | MAP_FIXED, -1, 0));
}

/* An mremap may answer EFAULT where a tracked and a new mapping lie side by side: then the slot is made anew. */
static void move_there_and_back(char *slot, char *away, uint64_t r)
{
	if (mremap(slot, SLOT_BYTES, SLOT_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, away) == MAP_FAILED) {
		map_slot(slot);
		return;
	}
	if (r & 1)
		memset(away, (int)r, PAGE);
	if (r & 2)
		usleep(r / 4 % 32768);
	if (mremap(away, SLOT_BYTES, SLOT_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, slot) == MAP_FAILED)
		map_slot(slot);
	map_slot(away);
}

/*
 * A piece moved away, tracked there by a look from outside, and moved back between its neighbours: all merge,
 * and the whole loses its registration, but not its write-protect bits.
 */
static void *merge_again(void *seed)
{
	uint64_t random = (uintptr_t)seed;
	char *away = chain + CHAIN * SLOT_BYTES;

	memset(chain, 3, CHAIN * SLOT_BYTES);
	while (!stop) {
		uint64_t r = next(&random);

		move_there_and_back(chain + r % CHAIN * SLOT_BYTES, away, r / CHAIN);
		for (int i = 0; i < 4; i++, r = next(&random))
			*(volatile uint64_t *)(chain + r % (CHAIN * SLOT_BYTES) / 8 * 8) = r;
	}
	return NULL;
}

static void fork_and_store(char *slot)
{
	pid_t child = MUST(fork());

	if (!child) {
		memset(slot, 1, SLOT_BYTES);
		_exit(0);
	}
	memset(slot, 2, PAGE);
	MUST(waitpid(child, NULL, 0));
}

static void change_slot(char *slot, char *away, uint64_t r)
{
	switch (r % 16) {
	case 0:
		map_slot(slot);
		break;
	case 1:
		MUST(munmap(slot, SLOT_BYTES));
		map_slot(slot);
		break;
	case 2:
		MUST(mprotect(slot + PAGE, PAGE * 3, PROT_READ));
		return;
	case 3:
		MUST(mprotect(slot, PAGE * 2, PROT_NONE));
		return;
	case 4 ... 6:
		MUST(madvise(slot + r / 16 % 8 * PAGE, PAGE * 4, MADV_DONTNEED));
		return;
	case 7:
		MUST(madvise(slot, SLOT_BYTES, r & 16 ? MADV_HUGEPAGE : MADV_NOHUGEPAGE));
		break;
	case 8:
		if (r / 16 % 8 == 0)
			fork_and_store(slot);
		break;
	case 9 ... 12:
		move_there_and_back(slot, away, r / 16);
		break;
	}
	for (uint64_t page = 0; page < SLOT_PAGES; page++)
		if (r >> (page + 20) & 1)
			*(volatile uint64_t *)(slot + page * PAGE) = r;
}

static void *change_layout(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	while (!stop) {
		uint64_t r = next(&random);
		char *slot = slots + r / 4096 % SLOTS * SLOT_BYTES;

		/* only this thread maps here, but a slot may have been left read-only */
		MUST(mprotect(slot, SLOT_BYTES, READ_WRITE));
		change_slot(slot, slots + (SLOTS + r / 64 % AWAY) * SLOT_BYTES, r / 8);
	}
	return NULL;
}

static char *tables(int which)
{
	return TABLES_AT + ((uint64_t)which << 30);
}

static void map_tables(int which)
{
	MUST(mmap(tables(which), TABLES_BYTES, READ_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	MUST(madvise(tables(which), TABLES_BYTES, MADV_NOHUGEPAGE));
	memset(tables(which), which % 255 + 1, TABLES_BYTES);
}

/* An area moves over the next one, again and again: the kernel moves its page tables as they are. */
static void *move_tables(void *seed)
{
	uint64_t random = (uintptr_t)seed;

	for (int which = 0; !stop; which++) {
		uint64_t r = next(&random);
		void *over = tables(which + 1);

		*(volatile uint64_t *)(tables(which) + r % (TABLES_BYTES / 8) * 8) = r;
		usleep(r / 64 % (1 << 20));
		MUST(mremap(tables(which), TABLES_BYTES, TABLES_BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, over));
		map_tables(which + 2);
	}
	return NULL;
}

static uint64_t deep(uint64_t levels)
{
	volatile uint64_t here[256];

	here[0] = levels;
	return levels ? deep(levels - 1) + here[0] : 0;
}

/* The heap grows and shrinks (brk and mmap), the stack grows. */
static void *allocate(void *seed)
{
	uint64_t random = (uintptr_t)seed;
	char *blocks[64] = {0};

	while (!stop) {
		uint64_t r = next(&random);
		char **block = &blocks[r % 64];
		size_t size = r / 64 % (r & 128 ? 300000 : 9000) + 1;

		if (r & 256)
			*block = realloc(*block, size);
		else
			free(*block), *block = malloc(size);
		memset(*block, (int)r, size);
		deep(r / 512 % 2000);
	}
	return NULL;
}

static void wait_for_line(void)
{
	char line;

	while (MUST(read(0, &line, 1)) == 1 && line != '\n')
		;
}

static void map_all(void)
{
	char *area = MUST(mmap(NULL, HUGE_BYTES + HUGE, READ_WRITE, ANONYMOUS | MAP_NORESERVE, -1, 0));
	FILE *backing = tmpfile();

	huge = (char *)(((uintptr_t)area + HUGE - 1) & ~(HUGE - 1));
	MUST(madvise(huge, HUGE_BYTES, MADV_HUGEPAGE));
	memset(huge, 1, HUGE_BYTES);
	plain = MUST(mmap(NULL, STORE_PAGES * PAGE, READ_WRITE, ANONYMOUS, -1, 0));
	slots = MUST(mmap(SLOTS_AT, (SLOTS + AWAY) * SLOT_BYTES, READ_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	for (size_t i = 0; i < SLOT_BYTES; i++)
		fputc('f', backing);
	fflush(backing);
	chain = MUST(mmap(CHAIN_AT, (CHAIN + 1) * SLOT_BYTES, READ_WRITE, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
	file = MUST(mmap(NULL, SLOT_BYTES, READ_WRITE, MAP_PRIVATE, fileno(backing), 0));
	alike = MUST(mmap(NULL, ALIKE_PAGES * PAGE, READ_WRITE, ANONYMOUS, -1, 0));
	(void)madvise(alike, ALIKE_PAGES * PAGE, MADV_MERGEABLE); /* not every kernel can */
	map_tables(0);
	map_tables(1);
	hugetlb = mmap(NULL, HUGETLB_PAGES * HUGE, READ_WRITE, ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (hugetlb == MAP_FAILED)
		hugetlb = NULL;
}

int main(void)
{
	void *(*const work[])(void *) = {store,		store_by_kernel, store_in_hugetlb, store_alike,
					 change_layout, merge_again,	 move_tables,	   allocate};
	enum { COUNT = sizeof(work) / sizeof(*work) };
	pthread_t threads[COUNT];
	uint64_t seed;
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);

	map_all();
	dprintf(1, "uffd %d\n", uffd);
	wait_for_line();
	close(uffd);
	MUST(getrandom(&seed, sizeof(seed), 0));
	for (int i = 0; i < COUNT; i++)
		if (pthread_create(&threads[i], NULL, work[i], (void *)((seed | 1) + (uint64_t)i * 2)))
			return 2;
	wait_for_line();
	stop = 1;
	for (int i = 0; i < COUNT; i++)
		pthread_join(threads[i], NULL);
	dprintf(1, "stopped\n");
	wait_for_line();
	return 0;
}
