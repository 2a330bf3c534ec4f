// Processes share POSIX message queues: one open file since the fork, others by name, one waits for a message.
#include "tree.h"

#include <mqueue.h>

static char name[64];

static void remove_queue(void)
{
	mq_unlink(name);
}

static void expect_text(mqd_t from, const char *wanted, unsigned int priority)
{
	char text[32];
	unsigned int found;

	EQUAL(mq_receive(from, text, sizeof(text), &found), (long)strlen(wanted));
	EQUAL(found, priority);
	CHECK(!memcmp(text, wanted, strlen(wanted)));
}

static void send_text(mqd_t to, const char *text, unsigned int priority)
{
	EQUAL(mq_send(to, text, strlen(text), priority), 0);
}

/* Has the open file of its parent: what one of them sets, both have. */
static int inheritor(mqd_t inherited, mqd_t answers)
{
	struct mq_attr found;

	tree_wait();
	EQUAL(mq_getattr(inherited, &found), 0);
	EQUAL(found.mq_flags, O_NONBLOCK);
	EQUAL(found.mq_curmsgs, 3);
	expect_text(inherited, "urgent", 9);
	send_text(answers, "took it", 0);
	return 0;
}

/* Blocked in mq_receive(3) all the time. */
static int receiver(mqd_t answers, mqd_t last)
{
	close(tree_gate[1]);
	EQUAL(write(tree_met[1], "+", 1), 1);
	expect_text(answers, "took it", 0);
	send_text(last, "heard", 0);
	return 0;
}

int main(int argc, char **argv)
{
	struct mq_attr wanted = {.mq_maxmsg = 4, .mq_msgsize = 32}, nonblocking = {.mq_flags = O_NONBLOCK};
	mqd_t queue, answers, last, sends;
	pid_t first, second;

	tree_init(argc, argv);
	snprintf(name, sizeof(name), "/migrate-answers-%d", getpid());
	check_on_fail = remove_queue;
	queue = MUST(mq_open("/migrate-shared", O_RDWR | O_CREAT | O_EXCL, 0600, &wanted));
	sends = MUST(mq_open("/migrate-shared", O_WRONLY));
	MUST(mq_unlink("/migrate-shared"));
	answers = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &wanted));
	last = MUST(mq_open("/migrate-last", O_RDWR | O_CREAT | O_EXCL, 0600, &wanted));
	MUST(mq_unlink("/migrate-last"));
	first = MUST(fork());
	if (first == 0) {
		mq_close(sends);
		_exit(inheritor(queue, answers));
	}
	second = MUST(fork());
	if (second == 0) {
		mq_close(queue);
		_exit(receiver(MUST(mq_open(name, O_RDONLY)), last));
	}
	send_text(sends, "later", 0);
	send_text(sends, "urgent", 9);
	send_text(sends, "latest", 0);
	MUST(mq_setattr(queue, &nonblocking, NULL));

	tree_ready_and_wait(2);

	expect_text(last, "heard", 0);
	expect_text(queue, "later", 0);
	expect_text(queue, "latest", 0);
	tree_join(first);
	tree_join(second);
	remove_queue();
	return check_pass();
}
