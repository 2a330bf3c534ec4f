// System V message queues keep their messages, order, types and limits, semaphores their values.
// requires: root
#include "check.h"

#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>

static int queue = -1, empty = -1, set = -1;

struct message {
	long type;
	char text[3000];
};

static void remove_all(void)
{
	msgctl(queue, IPC_RMID, NULL);
	msgctl(empty, IPC_RMID, NULL);
	semctl(set, 0, IPC_RMID);
}

static void send_text(int to, long type, const char *text, size_t size)
{
	struct message message = {.type = type};

	memcpy(message.text, text, size);
	MUST(msgsnd(to, &message, size, 0));
}

static void expect_text(int from, long wanted, long type, const char *text, size_t size)
{
	struct message message;

	EQUAL(msgrcv(from, &message, sizeof(message.text), wanted, IPC_NOWAIT), (long)size);
	EQUAL(message.type, type);
	CHECK(!memcmp(message.text, text, size));
}

int main(int argc, char **argv)
{
	key_t key = 0x4d000000 | (getpid() & 0xffff);
	char large[2999];
	struct msqid_ds status;
	struct semid_ds set_status;
	unsigned short values[3] = {7, 0, 32767}, found[3];

	check_init(argc, argv);
	check_on_fail = remove_all;
	memset(large, 'x', sizeof(large));
	queue = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0640));
	empty = MUST(msgget(IPC_PRIVATE, 0600));
	set = MUST(semget(key, 3, IPC_CREAT | IPC_EXCL | 0604));
	send_text(queue, 3, "three", 5);
	send_text(queue, 1, "", 0);
	send_text(queue, 1L << 40, large, sizeof(large));
	send_text(queue, 3, "three again", 12);
	send_text(empty, 9, "gone", 4);
	expect_text(empty, 0, 9, "gone", 4);
	MUST(msgctl(queue, IPC_STAT, &status));
	status.msg_qbytes = 5000;
	status.msg_perm.uid = 12;
	status.msg_perm.gid = 34;
	MUST(msgctl(queue, IPC_SET, &status));
	MUST(semctl(set, 0, SETALL, values));

	check_ready_and_wait();

	EQUAL(msgget(key, 0), queue);
	EQUAL(semget(key, 3, 0), set);
	MUST(msgctl(queue, IPC_STAT, &status));
	EQUAL(status.msg_qbytes, 5000);
	EQUAL(status.msg_qnum, 4);
	EQUAL(status.msg_perm.uid, 12);
	EQUAL(status.msg_perm.gid, 34);
	EQUAL(status.msg_perm.mode & 0777, 0640);
	expect_text(queue, -2, 1, "", 0);
	expect_text(queue, 3, 3, "three", 5);
	expect_text(queue, 0, 1L << 40, large, sizeof(large));
	expect_text(queue, 0, 3, "three again", 12);
	MUST(msgctl(empty, IPC_STAT, &status));
	EQUAL(status.msg_qnum, 0);
	MUST(semctl(set, 0, GETALL, found));
	CHECK(!memcmp(values, found, sizeof(values)));
	MUST(semctl(set, 0, IPC_STAT, &set_status));
	EQUAL(set_status.sem_perm.mode & 0777, 0604);
	remove_all();
	return check_pass();
}
