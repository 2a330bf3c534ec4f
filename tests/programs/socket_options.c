// Options of UDP, listening TCP and UNIX sockets stay as they were chosen: those of messages, multicast and congestion.
#include "check.h"

#include <linux/net_tstamp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <sys/socket.h>

#define ENOUGH 16
#define SO_PASSRIGHTS_ 83 /* newer than the headers */
#define LOOPBACK_INDEX 1

struct option {
	int level, option, value;
};

static const struct option udp4[ENOUGH] = {
	{SOL_SOCKET, SO_RXQ_OVFL, 1},	   {SOL_SOCKET, SO_BUSY_POLL, 50},
	{SOL_SOCKET, SO_ZEROCOPY, 1},	   {SOL_SOCKET, SO_TIMESTAMPNS, 1},
	{IPPROTO_IP, IP_RECVTTL, 1},	   {IPPROTO_IP, IP_RECVTOS, 1},
	{IPPROTO_IP, IP_MULTICAST_TTL, 7}, {IPPROTO_IP, IP_MULTICAST_LOOP, 0},
	{IPPROTO_IP, IP_MULTICAST_ALL, 0}, {IPPROTO_IP, IP_RECVORIGDSTADDR, 1},
	{IPPROTO_IP, IP_MINTTL, 3},	   {IPPROTO_IP, IP_UNICAST_IF, LOOPBACK_INDEX << 24},
	{IPPROTO_UDP, UDP_GRO, 1},	   {IPPROTO_UDP, UDP_SEGMENT, 1200},
};
static const struct option udp6[ENOUGH] = {
	{IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1},	{IPPROTO_IPV6, IPV6_RECVTCLASS, 1},
	{IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 9}, {IPPROTO_IPV6, IPV6_MULTICAST_LOOP, 0},
	{IPPROTO_IPV6, IPV6_DONTFRAG, 1},	{IPPROTO_IPV6, IPV6_MULTICAST_IF, LOOPBACK_INDEX},
	{IPPROTO_IP, IP_MULTICAST_TTL, 5},
};
static const struct option tcp4[ENOUGH] = {
	{IPPROTO_TCP, TCP_SYNCNT, 3},	 {IPPROTO_TCP, TCP_LINGER2, 5},	  {IPPROTO_TCP, TCP_WINDOW_CLAMP, 20000},
	{IPPROTO_TCP, TCP_SAVE_SYN, 1},	 {IPPROTO_TCP, TCP_MAXSEG, 1200}, {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 16384},
	{IPPROTO_TCP, TCP_FASTOPEN, 16}, {IPPROTO_IP, IP_TRANSPARENT, 1}, {SOL_SOCKET, SO_TIMESTAMP, 1},
};
static const struct option local[ENOUGH] = {{SOL_SOCKET, SO_TIMESTAMP, 1}};

static int get(int fd, const struct option *option)
{
	int value = -1;
	socklen_t size = sizeof(value);

	MUST(getsockopt(fd, option->level, option->option, &value, &size));
	return value;
}

static int made(int family, int type, const struct option *options)
{
	int fd = MUST(socket(family, type | SOCK_CLOEXEC, 0));

	for (; options->option; options++)
		MUST(setsockopt(fd, options->level, options->option, &options->value, sizeof(options->value)));
	return fd;
}

static void check(int fd, const struct option *options)
{
	for (; options->option; options++)
		if (get(fd, options) != options->value)
			check_fail("option %d/%d is %d, not %d", options->level, options->option, get(fd, options),
				   options->value);
}

/* An address of nobody: only IP_TRANSPARENT lets it be bound. */
static void listen_for_others(int fd)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a636363)};

	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	MUST(listen(fd, 5));
}

int main(int argc, char **argv)
{
	struct so_timestamping stamps = {.flags = SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE};
	struct so_timestamping found_stamps;
	struct in_addr from = {htonl(INADDR_LOOPBACK)}, found;
	int four, six, tcp, unix_fd, rights;
	socklen_t size = sizeof(found);
	char name[16] = "";

	check_init(argc, argv);
	four = made(AF_INET, SOCK_DGRAM, udp4);
	MUST(setsockopt(four, SOL_SOCKET, SO_TIMESTAMPING, &stamps, sizeof(stamps)));
	MUST(setsockopt(four, IPPROTO_IP, IP_MULTICAST_IF, &from, sizeof(from)));
	six = made(AF_INET6, SOCK_DGRAM, udp6);
	tcp = made(AF_INET, SOCK_STREAM, tcp4);
	MUST(setsockopt(tcp, IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
	listen_for_others(tcp);
	unix_fd = made(AF_UNIX, SOCK_DGRAM, local);
	rights = setsockopt(unix_fd, SOL_SOCKET, SO_PASSRIGHTS_, &(int){0}, sizeof(int)); /* since Linux 6.16 */
	check_ready_and_wait();
	check(four, udp4);
	check(six, udp6);
	check(tcp, tcp4);
	check(unix_fd, local);
	if (!rights)
		EQUAL(get(unix_fd, &(struct option){SOL_SOCKET, SO_PASSRIGHTS_, 0}), 0);
	MUST(getsockopt(four, IPPROTO_IP, IP_MULTICAST_IF, &found, &size));
	EQUAL(found.s_addr, from.s_addr);
	size = sizeof(found_stamps);
	MUST(getsockopt(four, SOL_SOCKET, SO_TIMESTAMPING, &found_stamps, &size));
	EQUAL(found_stamps.flags, stamps.flags);
	size = sizeof(name);
	MUST(getsockopt(tcp, IPPROTO_TCP, TCP_CONGESTION, name, &size));
	CHECK(!strcmp(name, "reno"));
	return check_pass();
}
