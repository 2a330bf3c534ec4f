// UDP sockets that were shut down for reading, with and without a peer, wake up who reads, and still send.
#include "check.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

static int bound(struct sockaddr_in *address)
{
	int fd = MUST(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
	socklen_t size = sizeof(*address);

	*address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	MUST(bind(fd, (struct sockaddr *)address, size));
	MUST(getsockname(fd, (struct sockaddr *)address, &size));
	return fd;
}

static void check_events(int fd, int expected)
{
	struct pollfd polled = {.fd = fd, .events = POLLIN | POLLRDHUP};

	MUST(poll(&polled, 1, 0));
	EQUAL(polled.revents, expected);
}

int main(int argc, char **argv)
{
	struct sockaddr_in here, there, lonely;
	int reader, peer, both, alone;
	char byte;

	check_init(argc, argv);
	reader = bound(&here);
	peer = bound(&there);
	both = bound(&lonely);
	alone = bound(&lonely);
	MUST(connect(reader, (struct sockaddr *)&there, sizeof(there)));
	MUST(connect(both, (struct sockaddr *)&there, sizeof(there)));
	MUST(shutdown(reader, SHUT_RD));
	MUST(shutdown(both, SHUT_RDWR));
	EQUAL(shutdown(alone, SHUT_RDWR), -1); /* ENOTCONN, and it is shut down */
	check_ready_and_wait();
	check_events(reader, POLLIN | POLLRDHUP);
	check_events(both, POLLIN | POLLRDHUP | POLLHUP);
	check_events(alone, POLLIN | POLLRDHUP | POLLHUP);
	check_events(peer, 0);
	EQUAL(recv(reader, &byte, 1, 0), 0);
	EQUAL(recv(alone, &byte, 1, 0), 0);
	EQUAL(send(reader, "x", 1, 0), 1);
	EQUAL(recv(peer, &byte, 1, 0), 1);
	EQUAL(send(both, "x", 1, MSG_NOSIGNAL), -1);
	EQUAL(errno, EPIPE);
	return check_pass();
}
