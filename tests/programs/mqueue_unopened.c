// A POSIX message queue that nobody has open goes along where the IPC namespace is the process's own, and so does its limit.
// tags: live
#include "check.h"
#include <mqueue.h>
#include <sched.h>

static void set_limit(const char *value)
{
	int fd = MUST(open("/proc/sys/fs/mqueue/msg_max", O_WRONLY | O_CLOEXEC));

	EQUAL(write(fd, value, strlen(value)), (ssize_t)strlen(value));
	close(fd);
}

int main(int argc, char **argv)
{
	struct mq_attr wanted = {.mq_maxmsg = 15, .mq_msgsize = 20}, found;
	char text[20];
	unsigned int priority;
	mqd_t queue;

	check_init(argc, argv);
	MUST(unshare(CLONE_NEWIPC));
	set_limit("15\n");
	queue = MUST(mq_open("/alone", O_RDWR | O_CREAT | O_EXCL, 0600, &wanted));
	MUST(mq_send(queue, "posix", 6, 3));
	MUST(mq_close(queue));

	check_ready_and_wait();

	queue = MUST(mq_open("/alone", O_RDWR));
	MUST(mq_getattr(queue, &found));
	EQUAL(found.mq_maxmsg, 15);
	EQUAL(found.mq_curmsgs, 1);
	EQUAL(mq_receive(queue, text, sizeof(text), &priority), 6);
	EQUAL(priority, 3);
	CHECK(!strcmp(text, "posix"));
	return check_pass();
}
