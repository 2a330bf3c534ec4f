// Credentials in a queue, SO_PEERCRED, SO_PASSCRED, buffer sizes, timeouts and SO_PEEK_OFF stay as they were.
#include "unix.h"

static int option(int fd, int name)
{
	socklen_t size = sizeof(int);
	int value = 0;

	MUST(getsockopt(fd, SOL_SOCKET, name, &value, &size));
	return value;
}

static void set(int fd, int name, int value)
{
	MUST(setsockopt(fd, SOL_SOCKET, name, &value, sizeof(value)));
}

static void check_peer(int fd, uid_t uid, gid_t gid)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	MUST(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size));
	EQUAL(peer.pid, getpid());
	EQUAL(peer.uid, uid);
	EQUAL(peer.gid, gid);
}

int main(int argc, char **argv)
{
	int ends[2], user[2], fds[16], before, sndbuf;
	struct timeval wait = {.tv_sec = 3, .tv_usec = 500000}, got;
	struct ucred sender = {0};
	socklen_t size = sizeof(got);
	char byte[4] = "";
	bool root = geteuid() == 0;

	check_init(argc, argv);
	unix_pair(SOCK_STREAM, ends);
	set(ends[1], SO_PASSCRED, 1);
	set(ends[0], SO_SNDBUF, 40000);
	set(ends[1], SO_PEEK_OFF, 2);
	MUST(setsockopt(ends[1], SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)));
	sndbuf = option(ends[0], SO_SNDBUF);
	before = option(ends[1], SO_SNDBUF);
	unix_send(ends[0], "who is it");
	if (root) {
		MUST(setegid(4321));
		MUST(seteuid(1234));
	}
	unix_pair(SOCK_SEQPACKET, user);
	if (root) {
		MUST(seteuid(0));
		MUST(setegid(0));
	}
	check_ready_and_wait();
	EQUAL(option(ends[1], SO_PASSCRED), 1);
	EQUAL(option(ends[0], SO_PASSCRED), 0);
	EQUAL(option(ends[0], SO_SNDBUF), sndbuf);
	EQUAL(option(ends[1], SO_SNDBUF), before);
	EQUAL(option(ends[1], SO_PEEK_OFF), 2);
	MUST(getsockopt(ends[1], SOL_SOCKET, SO_RCVTIMEO, &got, &size));
	CHECK(memcmp(&got, &wait, sizeof(got)) == 0);
	EQUAL(recv(ends[1], byte, 3, MSG_PEEK | MSG_DONTWAIT), 3);
	CHECK(memcmp(byte, "o i", 3) == 0);
	EQUAL(unix_receive(ends[1], "who is it", 100, fds, &sender), 0);
	EQUAL(sender.pid, getpid());
	EQUAL(sender.uid, getuid());
	check_peer(ends[0], geteuid(), getegid());
	check_peer(user[0], root ? 1234 : geteuid(), root ? 4321 : getegid());
	check_peer(user[1], root ? 1234 : geteuid(), root ? 4321 : getegid());
	return check_pass();
}
