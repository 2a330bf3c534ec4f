// An IPv4 listener keeps address, options and backlog, and answers a fresh connection.
#include "listening.h"

#define BACKLOG 7

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_storage before, after;
	socklen_t size;
	int fd;

	check_init(argc, argv);
	fd = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
	option_set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	option_set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	option_set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	MUST(listen(fd, BACKLOG));
	size = address_of(fd, &before);
	check_ready_and_wait();
	EQUAL(address_of(fd, &after), size);
	CHECK(memcmp(&after, &before, size) == 0);
	EQUAL(option_of(fd, SOL_SOCKET, SO_ACCEPTCONN), 1);
	EQUAL(option_of(fd, SOL_SOCKET, SO_REUSEADDR), 1);
	EQUAL(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
	EQUAL(option_of(fd, IPPROTO_TCP, TCP_NODELAY), 1);
	EQUAL(backlog_of(fd), BACKLOG);
	EQUAL(fcntl(fd, F_GETFL), O_RDWR | O_NONBLOCK);
	EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
	EQUAL(accept(fd, NULL, NULL), -1);
	EQUAL(errno, EAGAIN);
	check_answers(fd, SOCK_STREAM, &after, size);
	return check_pass();
}
