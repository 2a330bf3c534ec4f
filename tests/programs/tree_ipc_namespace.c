// An IPC namespace of the tree's own comes along whole: what nobody has attached or used, ids, keys, owners, limits.
#include "pattern.h"
#include "tree.h"
#include <sched.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#define SIZE (8 * PAGE - 100)
#define KEY 0x4d495043 /* in every namespace the same */

static void write_limit(const char *path, const char *value)
{
	int fd = MUST(open(path, O_WRONLY | O_CLOEXEC));

	EQUAL(write(fd, value, strlen(value)), (ssize_t)strlen(value));
	close(fd);
}

static void expect_limit(const char *path, const char *value)
{
	char found[64] = "";
	int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));

	EQUAL(read(fd, found, sizeof(found) - 1), (ssize_t)strlen(value));
	close(fd);
	CHECK(!strcmp(found, value));
}

static int count_lines(const char *path)
{
	FILE *file = fopen(path, "re");
	int found = 0;

	CHECK(file != NULL);
	for (int c; (c = getc(file)) != EOF;)
		found += c == '\n';
	fclose(file);
	return found - 1; /* the first says what the columns are */
}

static int make_segment(key_t key, int mode)
{
	int id = MUST(shmget(key, SIZE, IPC_CREAT | IPC_EXCL | mode));
	char *pages = MUST(shmat(id, NULL, 0));

	pattern_fill(pages, 3 * PAGE, id + 7);
	MUST(shmdt(pages));
	return id;
}

int main(int argc, char **argv)
{
	struct {
		long type;
		char text[5];
	} message = {7, "text"}, got = {0};
	unsigned short values[2] = {3, 65000 / 2}, found[2];
	struct shmid_ds status;
	int gap, alone, mine, queue, set, other;
	char *pages, *there;
	pid_t child;

	tree_init(argc, argv);
	MUST(unshare(CLONE_NEWIPC));
	write_limit("/proc/sys/kernel/msgmnb", "20000\n");
	write_limit("/proc/sys/kernel/sem", "100\t2000\t20\t50\n");
	write_limit("/proc/sys/kernel/shm_rmid_forced", "0\n");
	gap = make_segment(IPC_PRIVATE, 0600);
	alone = make_segment(KEY, 0604);
	MUST(shmctl(gap, IPC_RMID, NULL));
	mine = make_segment(KEY + 1, 0600);
	MUST(shmctl(mine, IPC_STAT, &status));
	status.shm_perm.uid = 12;
	MUST(shmctl(mine, IPC_SET, &status));
	pages = MUST(shmat(mine, NULL, 0));
	queue = MUST(msgget(KEY, IPC_CREAT | IPC_EXCL | 0600));
	set = MUST(semget(KEY, 2, IPC_CREAT | IPC_EXCL | 0600));
	child = MUST(fork());
	if (child == 0) { /* uses what its parent only made, and ends: nobody living has used them last */
		MUST(msgsnd(queue, &message, sizeof(message.text), 0));
		MUST(semctl(set, 0, SETALL, values));
		_exit(0);
	}
	EQUAL(tree_ended(child), 0);
	child = MUST(fork());
	if (child == 0) {
		tree_wait();
		pattern_check(pages, 3 * PAGE, mine + 7);
		strcpy(pages + 4 * PAGE, "from the child");
		_exit(0);
	}
	tree_ready_and_wait(1);

	EQUAL(tree_ended(child), 0);
	CHECK(!strcmp(pages + 4 * PAGE, "from the child"));
	EQUAL(shmget(KEY, 0, 0), alone);
	EQUAL(shmget(KEY + 1, 0, 0), mine);
	there = MUST(shmat(alone, NULL, 0));
	pattern_check(there, 3 * PAGE, alone + 7);
	EQUAL(there[3 * PAGE], 0);
	EQUAL(shmctl(mine, IPC_STAT, &status), 0);
	EQUAL(status.shm_nattch, 1);
	EQUAL(status.shm_perm.uid, 12);
	EQUAL(shmctl(alone, IPC_STAT, &status), 0);
	EQUAL(status.shm_segsz, SIZE);
	EQUAL(status.shm_perm.mode, 0604);
	EQUAL(msgget(KEY, 0), queue);
	EQUAL(msgrcv(queue, &got, sizeof(got.text), 0, IPC_NOWAIT), (ssize_t)sizeof(got.text));
	EQUAL(got.type, 7);
	CHECK(!strcmp(got.text, "text"));
	EQUAL(semget(KEY, 2, 0), set);
	EQUAL(semctl(set, 0, GETALL, found), 0);
	CHECK(!memcmp(found, values, sizeof(values)));
	EQUAL(count_lines("/proc/sysvipc/shm"), 2);
	EQUAL(count_lines("/proc/sysvipc/msg"), 1);
	EQUAL(count_lines("/proc/sysvipc/sem"), 1);
	expect_limit("/proc/sys/kernel/msgmnb", "20000\n");
	expect_limit("/proc/sys/kernel/sem", "100\t2000\t20\t50\n");
	other = make_segment(KEY + 2, 0600);
	CHECK(other != mine && other != alone);
	return check_pass();
}
