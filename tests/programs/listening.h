/* A listener answers a fresh connection made by the same process. */
#ifndef LISTENING_H
#define LISTENING_H

#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>

static inline int option_of(int fd, int level, int name)
{
	socklen_t size = sizeof(int);
	int value = 0;

	MUST(getsockopt(fd, level, name, &value, &size));
	return value;
}

static inline void option_set(int fd, int level, int name, int value)
{
	MUST(setsockopt(fd, level, name, &value, sizeof(value)));
}

static inline void check_answers(int listener, int type, const void *address, socklen_t size)
{
	const struct sockaddr *to = address;
	int client = MUST(socket(to->sa_family, type | SOCK_CLOEXEC, 0)), server;
	char text[8] = "";

	MUST(connect(client, to, size));
	server = MUST(accept(listener, NULL, NULL));
	EQUAL(write(client, "ping", 4), 4);
	EQUAL(read(server, text, sizeof(text)), 4);
	EQUAL(write(server, "pong", 4), 4);
	EQUAL(read(client, text, sizeof(text)), 4);
	CHECK(memcmp(text, "pong", 4) == 0);
	MUST(close(client));
	MUST(close(server));
}

/* Where a TCP listener stands, whatever the kernel chose. */
static inline socklen_t address_of(int fd, struct sockaddr_storage *address)
{
	socklen_t size = sizeof(*address);

	MUST(getsockname(fd, (struct sockaddr *)address, &size));
	return size;
}

static inline int backlog_of(int fd)
{
	struct tcp_info tcp;
	socklen_t size = sizeof(tcp);

	MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &size));
	return (int)tcp.tcpi_sacked;
}

#endif
