// recvmmsg(2) that has some of its messages at a stop may return just these, and leaves no error in the socket.
#include "several.h"
#include <sys/socket.h>

#define MESSAGES 4
#define ROOM 8

static int ends[2];
static int received;

static void take(void)
{
	static char texts[MESSAGES][ROOM];
	struct mmsghdr messages[MESSAGES] = {};
	struct iovec places[MESSAGES];
	int count;

	for (int i = 0; i < MESSAGES; i++) {
		places[i] = (struct iovec){texts[i], ROOM};
		messages[i].msg_hdr.msg_iov = &places[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	count = MUST(recvmmsg(ends[0], messages, MESSAGES - received, 0, NULL));
	for (int i = 0; i < count; i++, received++)
		EQUAL(texts[i][0], received);
}

static long take_all(void)
{
	while (received < MESSAGES)
		take();
	return received;
}

static void send_number(char number)
{
	EQUAL(send(ends[1], &number, 1, 0), 1);
}

static void send_the_others(void)
{
	send_number(2);
	send_number(3);
}

int main(int argc, char **argv)
{
	static const struct several only = {"recvmmsg", SYS_recvmmsg, take_all, send_the_others, MESSAGES};

	check_init(argc, argv);
	MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
	send_number(0);
	send_number(1);
	return run_several(&only, 1);
}
