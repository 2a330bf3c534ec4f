// Many UDP and UNIX sockets keep their options, each its own, though most of them are alike.
#include "check.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#define COUNT 40 /* of each kind */
#define KINDS 4

static const int DOMAINS[KINDS] = {AF_INET, AF_INET6, AF_UNIX, AF_UNIX};
static const int TYPES[KINDS] = {SOCK_DGRAM, SOCK_DGRAM, SOCK_STREAM, SOCK_DGRAM};
static int sockets[KINDS][COUNT];

static void choose(int fd, int level, int option, int value)
{
	MUST(setsockopt(fd, level, option, &value, sizeof(value)));
}

static int chosen(int fd, int level, int option)
{
	int value = 0;
	socklen_t size = sizeof(value);

	MUST(getsockopt(fd, level, option, &value, &size));
	return value;
}

/* Every fifth has another priority, every seventh a time limit, every eleventh of IP another TOS or class. */
static void make(int kind, int index)
{
	int fd = sockets[kind][index] = MUST(socket(DOMAINS[kind], TYPES[kind], 0));
	struct timeval limit = {.tv_sec = 1 + index};

	if (index % 5 == 0)
		choose(fd, SOL_SOCKET, SO_PRIORITY, 1 + index % 3);
	if (index % 7 == 0)
		MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)));
	if (index % 11 == 0 && DOMAINS[kind] == AF_INET)
		choose(fd, IPPROTO_IP, IP_TOS, 8);
	if (index % 11 == 0 && DOMAINS[kind] == AF_INET6)
		choose(fd, IPPROTO_IPV6, IPV6_TCLASS, 32);
}

static void check_one(int kind, int index)
{
	int fd = sockets[kind][index];
	struct timeval limit = {0};
	socklen_t size = sizeof(limit);

	EQUAL(chosen(fd, SOL_SOCKET, SO_DOMAIN), DOMAINS[kind]);
	EQUAL(chosen(fd, SOL_SOCKET, SO_TYPE), TYPES[kind]);
	if (index % 11 || DOMAINS[kind] != AF_INET) /* IP_TOS chooses a priority, too */
		EQUAL(chosen(fd, SOL_SOCKET, SO_PRIORITY), index % 5 ? 0 : 1 + index % 3);
	MUST(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, &size));
	EQUAL(limit.tv_sec, index % 7 ? 0 : 1 + index);
	if (DOMAINS[kind] == AF_INET)
		EQUAL(chosen(fd, IPPROTO_IP, IP_TOS), index % 11 ? 0 : 8);
	if (DOMAINS[kind] == AF_INET6)
		EQUAL(chosen(fd, IPPROTO_IPV6, IPV6_TCLASS), index % 11 ? 0 : 32);
}

int main(int argc, char **argv)
{
	check_init(argc, argv);
	for (int kind = 0; kind < KINDS; kind++)
		for (int index = 0; index < COUNT; index++)
			make(kind, index);
	check_ready_and_wait();
	for (int kind = 0; kind < KINDS; kind++)
		for (int index = 0; index < COUNT; index++)
			check_one(kind, index);
	return check_pass();
}
