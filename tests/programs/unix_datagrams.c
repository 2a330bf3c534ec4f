// Named datagram sockets keep one-way connections, queues with their senders' names, and a peer that is gone.
#include "unix.h"

static void check_from(int fd, const char *text, const struct sockaddr_un *sender, socklen_t size)
{
	struct sockaddr_un got = {0};
	socklen_t length = sizeof(got);
	char byte[64] = "";

	EQUAL(recvfrom(fd, byte, sizeof(byte), MSG_DONTWAIT, (struct sockaddr *)&got, &length), strlen(text));
	CHECK(memcmp(byte, text, strlen(text)) == 0);
	EQUAL(length, size);
	CHECK(memcmp(&got, sender, size) == 0);
}

int main(int argc, char **argv)
{
	struct sockaddr_un a, b, c, d;
	socklen_t a_size, b_size, c_size, d_size;
	int server, client, other, lonely, silent;

	check_init(argc, argv);
	a_size = unix_path(&a, in_dir("a"));
	b_size = unix_path(&b, in_dir("b"));
	c_size = unix_abstract(&c, "c");
	d_size = unix_abstract(&d, "d");
	server = unix_bound(SOCK_DGRAM, &a, a_size);
	client = unix_bound(SOCK_DGRAM, &b, b_size);
	other = unix_bound(SOCK_DGRAM, &c, c_size);
	silent = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));
	MUST(connect(client, (struct sockaddr *)&a, a_size));
	MUST(connect(silent, (struct sockaddr *)&a, a_size));
	unix_send(client, "from b");
	MUST(sendto(other, "from c", 6, 0, (struct sockaddr *)&a, a_size));
	unix_send(silent, "from nobody");
	/* one that sent, and is gone */
	lonely = unix_bound(SOCK_DGRAM, &d, d_size);
	MUST(connect(other, (struct sockaddr *)&d, d_size));
	MUST(sendto(lonely, "from d", 6, 0, (struct sockaddr *)&a, a_size));
	MUST(close(lonely));
	check_ready_and_wait();
	check_from(server, "from b", &b, b_size);
	check_from(server, "from c", &c, c_size);
	unix_expect(server, "from nobody");
	check_from(server, "from d", &d, d_size);
	unix_expect_empty(server);
	unix_check_peer_name(client, &a, a_size);
	unix_check_peer_name(other, &d, d_size);
	unix_send(silent, "still");
	unix_expect(server, "still");
	MUST(sendto(server, "answer", 6, 0, (struct sockaddr *)&b, b_size));
	check_from(client, "answer", &a, a_size);
	EQUAL(send(other, "x", 1, 0), -1);
	EQUAL(errno, ECONNREFUSED);
	return check_pass();
}
