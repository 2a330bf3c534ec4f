// A dual-stack listener answers IPv6 and IPv4, and an IPv6-only one beside it stays so.
// requires: ipv6
#include "listening.h"

static int listener(int v6_only, struct sockaddr_in6 *address)
{
	int fd = MUST(socket(AF_INET6, SOCK_STREAM, 0));
	socklen_t size = sizeof(*address);

	*address = (struct sockaddr_in6){.sin6_family = AF_INET6};
	option_set(fd, IPPROTO_IPV6, IPV6_V6ONLY, v6_only);
	MUST(bind(fd, (struct sockaddr *)address, size));
	MUST(listen(fd, 16));
	MUST(getsockname(fd, (struct sockaddr *)address, &size));
	address->sin6_addr = in6addr_loopback;
	return fd;
}

int main(int argc, char **argv)
{
	struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	struct sockaddr_in6 dual_address, only_address;
	int dual, only;

	check_init(argc, argv);
	dual = listener(0, &dual_address);
	only = listener(1, &only_address);
	check_ready_and_wait();
	EQUAL(option_of(dual, IPPROTO_IPV6, IPV6_V6ONLY), 0);
	EQUAL(option_of(only, IPPROTO_IPV6, IPV6_V6ONLY), 1);
	check_answers(dual, SOCK_STREAM, &dual_address, sizeof(dual_address));
	check_answers(only, SOCK_STREAM, &only_address, sizeof(only_address));
	v4.sin_port = dual_address.sin6_port;
	check_answers(dual, SOCK_STREAM, &v4, sizeof(v4));
	v4.sin_port = only_address.sin6_port;
	EQUAL(connect(MUST(socket(AF_INET, SOCK_STREAM, 0)), (struct sockaddr *)&v4, sizeof(v4)), -1);
	EQUAL(errno, ECONNREFUSED);
	return check_pass();
}
