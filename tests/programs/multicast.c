// UDP sockets stay in their multicast groups, with the sources that they want or do not, and hear what is sent there.
// requires: ipv6
#include "check.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#define PORT 45454
#define OPEN "239.7.1.1"
#define CHOSEN "232.7.1.2"
#define BARRED "239.7.1.3"
#define SIX "ff02::4711"
#define SOURCE "127.0.0.1"

static int loopback;

static struct sockaddr_storage address(int family, const char *text, in_port_t port)
{
	union {
		struct sockaddr_storage any;
		struct sockaddr_in four;
		struct sockaddr_in6 six;
	} made = {.any.ss_family = family};

	made.four.sin_port = htons(port); /* where that of IPv6 is, too */
	EQUAL(inet_pton(family, text, family == AF_INET ? (void *)&made.four.sin_addr : &made.six.sin6_addr), 1);
	return made.any;
}

static void join(int fd, int family, const char *text)
{
	struct group_req wanted = {.gr_interface = loopback, .gr_group = address(family, text, 0)};

	MUST(setsockopt(fd, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, MCAST_JOIN_GROUP, &wanted, sizeof(wanted)));
}

static void choose(int fd, int option, const char *text)
{
	struct group_source_req wanted = {
		.gsr_interface = loopback,
		.gsr_group = address(AF_INET, text, 0),
		.gsr_source = address(AF_INET, SOURCE, 0),
	};

	MUST(setsockopt(fd, IPPROTO_IP, option, &wanted, sizeof(wanted)));
}

static void check_filter(int fd, int family, const char *text, unsigned int mode, unsigned int sources)
{
	union {
		struct group_filter filter;
		char room[GROUP_FILTER_SIZE(4)];
	} found = {.filter = {.gf_interface = loopback, .gf_group = address(family, text, 0), .gf_numsrc = 4}};
	socklen_t size = sizeof(found);

	MUST(getsockopt(fd, family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6, MCAST_MSFILTER, &found, &size));
	EQUAL(found.filter.gf_fmode, mode);
	EQUAL(found.filter.gf_numsrc, sources);
}

static int made(int family, in_port_t port, const char *any)
{
	struct sockaddr_storage here = address(family, any, port);
	int fd = MUST(socket(family, SOCK_DGRAM, 0)), none = 0;

	MUST(bind(fd, (struct sockaddr *)&here,
		  family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6)));
	if (family == AF_INET) /* else it hears the groups of other sockets, too */
		MUST(setsockopt(fd, IPPROTO_IP, IP_MULTICAST_ALL, &none, sizeof(none)));
	return fd;
}

/* Whether `fd` hears what is sent to the group. */
static bool hears(int fd, const char *text)
{
	struct ip_mreqn from = {.imr_address.s_addr = htonl(INADDR_LOOPBACK), .imr_ifindex = loopback};
	struct sockaddr_storage group = address(AF_INET, text, PORT);
	int sender = MUST(socket(AF_INET, SOCK_DGRAM, 0));
	char byte;

	MUST(setsockopt(sender, IPPROTO_IP, IP_MULTICAST_IF, &from, sizeof(from)));
	EQUAL(sendto(sender, "x", 1, 0, (struct sockaddr *)&group, sizeof(struct sockaddr_in)), 1);
	MUST(close(sender));
	return recv(fd, &byte, 1, MSG_DONTWAIT) == 1;
}

int main(int argc, char **argv)
{
	int four, six, none;

	check_init(argc, argv);
	loopback = if_nametoindex("lo");
	four = made(AF_INET, PORT, "0.0.0.0");
	six = made(AF_INET6, PORT + 1, "::");
	none = made(AF_INET, PORT + 2, "0.0.0.0");
	join(four, AF_INET, OPEN);
	choose(four, MCAST_JOIN_SOURCE_GROUP, CHOSEN);
	join(four, AF_INET, BARRED);
	choose(four, MCAST_BLOCK_SOURCE, BARRED);
	join(six, AF_INET6, SIX);
	join(six, AF_INET, OPEN);
	CHECK(hears(four, OPEN));
	check_ready_and_wait();
	check_filter(four, AF_INET, OPEN, MCAST_EXCLUDE, 0);
	check_filter(four, AF_INET, CHOSEN, MCAST_INCLUDE, 1);
	check_filter(four, AF_INET, BARRED, MCAST_EXCLUDE, 1);
	check_filter(six, AF_INET6, SIX, MCAST_EXCLUDE, 0);
	check_filter(six, AF_INET, OPEN, MCAST_EXCLUDE, 0);
	CHECK(hears(four, OPEN));
	CHECK(hears(four, CHOSEN));
	CHECK(!hears(four, BARRED));
	join(none, AF_INET, OPEN); /* EADDRINUSE if it were in it */
	return check_pass();
}
