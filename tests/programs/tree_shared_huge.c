// Huge pages that tasks share: anonymous ones, a sealed memfd and a System V segment keep content, size and holes.
// requires: huge-pages
#include "shared.h"
#include <sys/shm.h>

#define HUGE (2UL << 20)

static struct shared_control *control;
static char *anonymous, *file, *segment;
static int memfd;

static void child(void)
{
	shared_write(control, anonymous);
	EQUAL(control->seen, 4711);
	pattern_check(file + HUGE, PAGE, 7);
	shared_store(anonymous, 0, -1);
	_exit(0);
}

int main(int argc, char **argv)
{
	struct stat found;
	pid_t pid;
	int id;

	tree_init(argc, argv);
	control = MUST(mmap(NULL, sizeof(*control), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
	anonymous = MUST(mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0));
	memfd = MUST(memfd_create("huge", MFD_HUGETLB | MFD_ALLOW_SEALING));
	EQUAL(ftruncate(memfd, 3 * HUGE), 0);
	file = MUST(mmap(NULL, 3 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0));
	pattern_fill(file + HUGE, PAGE, 7);
	EQUAL(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
	id = MUST(shmget(IPC_PRIVATE, HUGE, IPC_CREAT | SHM_HUGETLB | 0600));
	segment = MUST(shmat(id, NULL, 0));
	EQUAL(shmctl(id, IPC_RMID, NULL), 0);
	pattern_fill(segment + HUGE - PAGE, PAGE, 9);
	pid = MUST(fork());
	if (pid == 0)
		child();
	EQUAL(shared_mappings("/anon_hugepage (deleted)"), 1);
	shared_move(control);
	control->seen = 4711;
	control->stop = 1;
	tree_join(pid);
	shared_check(anonymous, 0, -1);
	EQUAL(shared_mappings("/anon_hugepage (deleted)"), 1);
	EQUAL(anonymous[2 * HUGE - 1], 0);
	pattern_check(file + HUGE, PAGE, 7);
	EQUAL(file[0], 0);
	EQUAL(fcntl(memfd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW);
	EQUAL(fstat(memfd, &found), 0);
	EQUAL(found.st_size, 3 * HUGE);
	EQUAL(found.st_blksize, HUGE);
	pattern_check(segment + HUGE - PAGE, PAGE, 9);
	segment[0] = 1;
	return check_pass();
}
