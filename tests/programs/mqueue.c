// POSIX message queues keep messages, order, priorities, limits and owner, their open files access and flags.
// requires: root
#include "unix.h"

#include <mqueue.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#define SIZE 3000

static char name[64], told_name[64], text[SIZE];

static void remove_all(void)
{
	mq_unlink(name);
	mq_unlink(told_name);
}

static mqd_t make(const char *path, int flags, long most, long size)
{
	struct mq_attr wanted = {.mq_maxmsg = most, .mq_msgsize = size};

	return MUST(mq_open(path, flags | O_CREAT | O_EXCL, 0640, &wanted));
}

static void expect_message(mqd_t from, const char *wanted, long length, unsigned int priority)
{
	unsigned int found = 0;

	EQUAL(mq_receive(from, text, sizeof(text), &found), length);
	EQUAL(found, priority);
	CHECK(!memcmp(text, wanted, length));
}

static void expect_attributes(mqd_t queue, long flags, long most, long size, long messages)
{
	struct mq_attr found;

	MUST(mq_getattr(queue, &found));
	EQUAL(found.mq_flags, flags);
	EQUAL(found.mq_maxmsg, most);
	EQUAL(found.mq_msgsize, size);
	EQUAL(found.mq_curmsgs, messages);
}

int main(int argc, char **argv)
{
	struct sigevent nothing = {.sigev_notify = SIGEV_NONE};
	struct epoll_event watched = {.events = EPOLLIN, .data.u64 = 7}, ready;
	mqd_t both, reads, writes, removed, told;
	struct stat status;
	char large[SIZE];
	int flags, epoll, pair[2], sent;

	check_init(argc, argv);
	snprintf(name, sizeof(name), "/migrate test %d", getpid());
	snprintf(told_name, sizeof(told_name), "/migrate-told-%d", getpid());
	check_on_fail = remove_all;
	memset(large, 'x', sizeof(large));
	both = make(name, O_RDWR | O_NONBLOCK, 7, SIZE);
	MUST(fchown(both, 12, 34));
	MUST(fchmod(both, 0604));
	reads = MUST(mq_open(name, O_RDONLY));
	writes = MUST(mq_open(name, O_WRONLY));
	MUST(fcntl(writes, F_SETFD, 0));
	MUST(mq_send(writes, "three", 5, 3));
	MUST(mq_send(writes, "", 0, 32767));
	MUST(mq_send(writes, large, sizeof(large), 0));
	MUST(mq_send(writes, "three again", 12, 3));
	MUST(mq_send(writes, "none", 4, 0));
	removed = make("/migrate-passing-name", O_RDWR, 2, 10);
	MUST(mq_unlink("/migrate-passing-name"));
	MUST(mq_send(removed, "one", 3, 1));
	MUST(mq_send(removed, "full", 4, 1));
	told = make(told_name, O_RDWR, 1, 1);
	MUST(mq_notify(told, &nothing));
	epoll = MUST(epoll_create1(0));
	MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, told, &watched));
	flags = MUST(fcntl(writes, F_GETFL));
	unix_pair(SOCK_STREAM, pair);
	sent = MUST(mq_open(name, O_RDONLY | O_NONBLOCK));
	unix_send_fds(pair[0], "!", &sent, 1);
	MUST(mq_close(sent));

	check_ready_and_wait();

	EQUAL(fcntl(writes, F_GETFL), flags);
	EQUAL(fcntl(writes, F_GETFD), 0);
	EQUAL(fcntl(both, F_GETFD), FD_CLOEXEC);
	expect_attributes(both, O_NONBLOCK, 7, SIZE, 5);
	expect_attributes(reads, 0, 7, SIZE, 5);
	MUST(fstat(reads, &status));
	EQUAL(status.st_uid, 12);
	EQUAL(status.st_gid, 34);
	EQUAL(status.st_mode & 07777, 0604);
	EQUAL(mq_send(reads, "no", 2, 0), -1);
	EQUAL(errno, EBADF);
	EQUAL(mq_receive(writes, text, sizeof(text), NULL), -1);
	EQUAL(errno, EBADF);
	expect_message(reads, "", 0, 32767);
	expect_message(both, "three", 5, 3);
	expect_message(reads, "three again", 12, 3);
	expect_message(reads, large, sizeof(large), 0);
	expect_message(reads, "none", 4, 0);
	EQUAL(mq_receive(both, text, sizeof(text), NULL), -1);
	EQUAL(errno, EAGAIN);
	EQUAL(unix_receive(pair[1], "!", 1, &sent, NULL), 1);
	expect_attributes(sent, O_NONBLOCK, 7, SIZE, 0);
	MUST(mq_send(writes, "found by name", 14, 5));
	MUST(mq_close(reads));
	MUST(mq_close(sent));
	reads = MUST(mq_open(name, O_RDONLY));
	expect_message(reads, "found by name", 14, 5);
	MUST(mq_unlink(name));

	expect_attributes(removed, 0, 2, 10, 2);
	MUST(fstat(removed, &status));
	EQUAL(status.st_nlink, 0);
	expect_message(removed, "one", 3, 1);
	expect_message(removed, "full", 4, 1);

	EQUAL(epoll_wait(epoll, &ready, 1, 0), 0);
	EQUAL(mq_notify(told, &nothing), -1); /* it is registered already */
	EQUAL(errno, EBUSY);
	MUST(mq_send(told, "!", 1, 0));
	EQUAL(epoll_wait(epoll, &ready, 1, 0), 1);
	EQUAL(ready.data.u64, 7);
	MUST(mq_notify(told, &nothing)); /* which that message took back */
	MUST(mq_unlink(told_name));
	return check_pass();
}
