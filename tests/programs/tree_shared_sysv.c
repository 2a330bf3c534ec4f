// System V segments keep id, key, owner, mode and attachments: one written by a child, one attached twice, one removed.
#include "shared.h"
#include <sys/ipc.h>
#include <sys/shm.h>

static void *attach(int id, int flags)
{
	return MUST(shmat(id, NULL, flags));
}

static struct shmid_ds status(int id)
{
	struct shmid_ds found;

	EQUAL(shmctl(id, IPC_STAT, &found), 0);
	return found;
}

int main(int argc, char **argv)
{
	struct shmid_ds before, after;
	int id, removed, split, written;
	struct shared_control *control;
	char *pages, *second, *reading, *passing, *parts;
	key_t key;
	pid_t pid;

	tree_init(argc, argv);
	key = 0x4d000000 + getpid();
	id = MUST(shmget(key, 3 * PAGE - 50, IPC_CREAT | IPC_EXCL | 0640));
	control = attach(id, 0);
	second = attach(id, 0);
	reading = attach(id, SHM_RDONLY);
	removed = MUST(shmget(IPC_PRIVATE, 2 * PAGE, 0600));
	passing = attach(removed, 0);
	strcpy(passing + PAGE, "goes with the last of us");
	EQUAL(shmctl(removed, IPC_RMID, NULL), 0);
	split = MUST(shmget(IPC_PRIVATE, 4 * PAGE, 0600));
	parts = attach(split, 0);
	pattern_fill(parts, 4 * PAGE, 3);
	EQUAL(munmap(parts + PAGE, PAGE), 0);
	EQUAL(mprotect(parts + 2 * PAGE, PAGE, PROT_READ), 0);

	written = MUST(shmget(IPC_PRIVATE, SHARED_PAGES * PAGE, 0600));
	pages = attach(written, 0);
	pid = MUST(fork());
	if (pid == 0) {
		shared_write(control, pages);
		_exit(0);
	}
	before = status(id);
	shared_move(control);
	after = status(id);
	EQUAL(after.shm_nattch, before.shm_nattch);
	EQUAL(after.shm_perm.mode, before.shm_perm.mode);
	EQUAL(after.shm_perm.__key, key);
	EQUAL(after.shm_perm.uid, before.shm_perm.uid);
	EQUAL(after.shm_segsz, before.shm_segsz);
	EQUAL(shmget(key, 0, 0), id);
	control->stop = 1;
	tree_join(pid);
	strcpy(second + 2 * PAGE, "seen by all");
	CHECK(!strcmp(reading + 2 * PAGE, "seen by all"));
	EQUAL(mprotect(reading, PAGE, PROT_READ | PROT_WRITE), -1);
	EQUAL(errno, EACCES);
	CHECK(!strcmp(passing + PAGE, "goes with the last of us"));
	CHECK(status(removed).shm_perm.mode & SHM_DEST);
	pattern_check(parts, PAGE, 3);
	pattern_check(parts + 2 * PAGE, 2 * PAGE, 3 + 2 * PAGE / 8);
	EQUAL(shmdt(parts), 0);
	EQUAL(status(split).shm_nattch, 0);
	EQUAL(shmdt(passing), 0);
	EQUAL(shmctl(removed, IPC_STAT, &after), -1);
	EQUAL(shmctl(split, IPC_RMID, NULL), 0);
	EQUAL(shmctl(written, IPC_RMID, NULL), 0);
	EQUAL(shmdt(second), 0);
	EQUAL(shmctl(id, IPC_RMID, NULL), 0);
	return check_pass();
}
