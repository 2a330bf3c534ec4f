// Processes share POSIX message queues: one waits for a message, two exchange some all the time.
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

/* Sends as fast as there is room, and waits where there is none. */
static int producer(mqd_t to)
{
	unsigned int number, end = 0;

	close(tree_gate[1]);
	EQUAL(write(tree_met[1], "+", 1), 1);
	for (number = 1; !check_go(); number++) {
		EQUAL(mq_send(to, (const char *)&number, sizeof(number), 0), 0);
		if (number % 64 == 0)
			check_nap();
	}
	EQUAL(mq_send(to, (const char *)&end, sizeof(end), 0), 0);
	return 0;
}

static int consumer(mqd_t from)
{
	unsigned int number = 1;
	char text[32];

	close(tree_gate[1]);
	EQUAL(write(tree_met[1], "+", 1), 1);
	for (unsigned int wanted = 1; number; wanted++) {
		EQUAL(mq_receive(from, text, sizeof(text), NULL), sizeof(number));
		memcpy(&number, text, sizeof(number));
		if (number)
			EQUAL(number, wanted);
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct mq_attr wanted = {.mq_maxmsg = 4, .mq_msgsize = 32}, nonblocking = {.mq_flags = O_NONBLOCK};
	mqd_t queue, answers, last, sends, busy;
	pid_t first, second, sending, receiving;

	tree_init(argc, argv);
	snprintf(name, sizeof(name), "/migrate-answers-%d", getpid());
	check_on_fail = remove_queue;
	queue = MUST(mq_open("/migrate-shared", O_RDWR | O_CREAT | O_EXCL, 0600, &wanted));
	sends = MUST(mq_open("/migrate-shared", O_WRONLY));
	MUST(mq_unlink("/migrate-shared"));
	answers = MUST(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &wanted));
	last = MUST(mq_open("/migrate-last", O_RDWR | O_CREAT | O_EXCL, 0600, &wanted));
	MUST(mq_unlink("/migrate-last"));
	busy = MUST(mq_open("/migrate-busy", O_RDWR | O_CREAT | O_EXCL, 0600, &wanted));
	MUST(mq_unlink("/migrate-busy"));
	receiving = MUST(fork());
	if (receiving == 0)
		_exit(consumer(busy));
	sending = MUST(fork());
	if (sending == 0)
		_exit(producer(busy));
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

	tree_ready_and_wait(4);

	expect_text(last, "heard", 0);
	expect_text(queue, "later", 0);
	expect_text(queue, "latest", 0);
	tree_join(first);
	tree_join(second);
	tree_join(sending);
	tree_join(receiving);
	remove_queue();
	return check_pass();
}
