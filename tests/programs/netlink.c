// Netlink sockets keep protocol, port, groups, options, filter and peer, and are answered.
#include "check.h"

#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/socket.h>

#define PORT 4711

static int made(int type, int protocol)
{
	return MUST(socket(AF_NETLINK, type | SOCK_CLOEXEC, protocol));
}

static void bind_to(int fd, unsigned int port, unsigned int groups)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_pid = port, .nl_groups = groups};

	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
}

static void check_port(int fd, unsigned int port)
{
	struct sockaddr_nl found;
	socklen_t size = sizeof(found);

	MUST(getsockname(fd, (struct sockaddr *)&found, &size));
	EQUAL(found.nl_pid, port);
}

static void set(int fd, int option)
{
	int one = 1;

	MUST(setsockopt(fd, SOL_NETLINK, option, &one, sizeof(one)));
}

static void check_set(int fd, int option, int expected)
{
	int found = -1;
	socklen_t size = sizeof(found);

	MUST(getsockopt(fd, SOL_NETLINK, option, &found, &size));
	EQUAL(found, expected);
}

/* Ask for the first interface; the answer names the port that asked. */
static void ask(int fd, unsigned int port)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg which;
	} question = {
		.head = {.nlmsg_len = sizeof(question),
			 .nlmsg_type = RTM_GETLINK,
			 .nlmsg_flags = NLM_F_REQUEST,
			 .nlmsg_seq = 7},
		.which = {.ifi_index = 1},
	};
	union {
		struct nlmsghdr head;
		char room[16384];
	} answer;

	EQUAL(send(fd, &question, sizeof(question), 0), sizeof(question));
	CHECK(recv(fd, &answer, sizeof(answer), MSG_DONTWAIT) > (ssize_t)sizeof(answer.head));
	EQUAL(answer.head.nlmsg_type, RTM_NEWLINK);
	EQUAL(answer.head.nlmsg_seq, 7);
	EQUAL(answer.head.nlmsg_pid, port);
}

/* All but what is shorter than 32 bytes: no answer is. */
static void filter(int fd)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 32, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 0xffff),
	};
	struct sock_fprog program = {.len = 4, .filter = code};
	int one = 1;

	MUST(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
	MUST(setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &one, sizeof(one)));
}

static void check_filter(int fd)
{
	struct sock_filter found[8];
	socklen_t count = 8;

	MUST(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, found, &count));
	EQUAL(count, 4);
	EQUAL(found[1].k, 32);
	EQUAL(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &count, sizeof(count)), -1);
	EQUAL(errno, EPERM);
}

int main(int argc, char **argv)
{
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK, .nl_groups = 1 << 4}, peer;
	unsigned int groups[4] = {0};
	int route, plain, uevents, choosy, second = RTNLGRP_BRVLAN; /* its bit is in the second word */
	socklen_t size = sizeof(groups);

	check_init(argc, argv);
	route = made(SOCK_RAW, NETLINK_ROUTE);
	bind_to(route, PORT, RTMGRP_LINK | RTMGRP_IPV4_IFADDR);
	MUST(setsockopt(route, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &second, sizeof(second)));
	plain = made(SOCK_DGRAM, NETLINK_ROUTE); /* it has no port until it asks */
	uevents = made(SOCK_RAW | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);
	bind_to(uevents, PORT + 1, 1);
	choosy = made(SOCK_RAW, NETLINK_SOCK_DIAG);
	bind_to(choosy, PORT + 2, 0);
	MUST(connect(choosy, (struct sockaddr *)&kernel, sizeof(kernel)));
	filter(uevents);
	set(choosy, NETLINK_EXT_ACK);
	set(choosy, NETLINK_CAP_ACK);
	set(choosy, NETLINK_NO_ENOBUFS);
	check_ready_and_wait();
	check_port(route, PORT);
	check_port(plain, 0);
	check_port(uevents, PORT + 1);
	check_port(choosy, PORT + 2);
	MUST(getsockopt(route, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &size));
	EQUAL(groups[0], RTMGRP_LINK | RTMGRP_IPV4_IFADDR);
	EQUAL(groups[1], 1 << (RTNLGRP_BRVLAN - 1 - 32));
	CHECK(fcntl(uevents, F_GETFL) & O_NONBLOCK);
	check_filter(uevents);
	size = sizeof(peer);
	MUST(getpeername(choosy, (struct sockaddr *)&peer, &size));
	EQUAL(peer.nl_groups, 1 << 4);
	check_set(choosy, NETLINK_EXT_ACK, 1);
	check_set(choosy, NETLINK_CAP_ACK, 1);
	check_set(choosy, NETLINK_NO_ENOBUFS, 1);
	check_set(choosy, NETLINK_PKTINFO, 0);
	ask(route, PORT);
	ask(plain, getpid());
	EQUAL(poll(&(struct pollfd){.fd = route, .events = POLLIN}, 1, 0), 0);
	return check_pass();
}
