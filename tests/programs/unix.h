/* UNIX sockets: pairs, names, and messages with what comes along. */
#ifndef UNIX_H
#define UNIX_H

#include "check.h"
#include <sys/ioctl.h>
#include <sys/poll.h>
#include <sys/socket.h>
#include <sys/un.h>

static inline void unix_pair(int type, int ends[2])
{
	MUST(socketpair(AF_UNIX, type, 0, ends));
}

static inline void unix_send(int fd, const char *text)
{
	EQUAL(send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL), strlen(text));
}

/* The next message is exactly this one. */
static inline void unix_expect(int fd, const char *text)
{
	char got[256] = "";

	EQUAL(recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT), strlen(text));
	if (memcmp(got, text, strlen(text)))
		check_fail("received \"%s\", not \"%s\"", got, text);
}

static inline void unix_expect_empty(int fd)
{
	char byte;

	EQUAL(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	EQUAL(errno, EAGAIN);
}

static inline void unix_expect_end(int fd)
{
	char byte;

	EQUAL(recv(fd, &byte, 1, MSG_DONTWAIT), 0);
}

static inline socklen_t unix_path(struct sockaddr_un *address, const char *path)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	CHECK(strlen(path) < sizeof(address->sun_path));
	strcpy(address->sun_path, path);
	return offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1;
}

static inline socklen_t unix_abstract(struct sockaddr_un *address, const char *word)
{
	int length;

	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	length = snprintf(address->sun_path + 1, 64, "check-%d-%s", getpid(), word);
	return offsetof(struct sockaddr_un, sun_path) + 1 + length;
}

static inline int unix_bound(int type, const struct sockaddr_un *address, socklen_t size)
{
	int fd = MUST(socket(AF_UNIX, type, 0));

	MUST(bind(fd, (const struct sockaddr *)address, size));
	return fd;
}

static inline int unix_connected(int type, const struct sockaddr_un *address, socklen_t size)
{
	int fd = MUST(socket(AF_UNIX, type, 0));

	MUST(connect(fd, (const struct sockaddr *)address, size));
	return fd;
}

static inline void unix_check_name(int fd, const struct sockaddr_un *address, socklen_t size)
{
	struct sockaddr_un got = {0};
	socklen_t length = sizeof(got);

	MUST(getsockname(fd, (struct sockaddr *)&got, &length));
	EQUAL(length, size);
	CHECK(memcmp(&got, address, size) == 0);
}

static inline void unix_check_peer_name(int fd, const struct sockaddr_un *address, socklen_t size)
{
	struct sockaddr_un got = {0};
	socklen_t length = sizeof(got);

	MUST(getpeername(fd, (struct sockaddr *)&got, &length));
	EQUAL(length, size);
	CHECK(memcmp(&got, address, size) == 0);
}

static inline void unix_send_fds(int fd, const char *text, const int *fds, int count)
{
	char control[CMSG_SPACE(sizeof(int) * 16)] = {0};
	struct iovec vector = {.iov_base = (char *)text, .iov_len = strlen(text)};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control};
	struct cmsghdr *header;

	message.msg_controllen = CMSG_SPACE(sizeof(int) * count);
	header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(int) * count);
	memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
	EQUAL(sendmsg(fd, &message, MSG_DONTWAIT), strlen(text));
}

/* Receives exactly this text, at most `size` bytes at once, and as many descriptors as came with it. */
static inline int unix_receive(int fd, const char *text, size_t size, int *fds, struct ucred *sender)
{
	char control[512], got[256] = "";
	struct iovec vector = {.iov_base = got, .iov_len = size};
	struct msghdr message = {
		.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	int count = 0;

	EQUAL(recvmsg(fd, &message, MSG_DONTWAIT), strlen(text));
	CHECK(memcmp(got, text, strlen(text)) == 0);
	for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
		if (header->cmsg_type == SCM_RIGHTS) {
			count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
			memcpy(fds, CMSG_DATA(header), count * sizeof(int));
		}
		if (header->cmsg_type == SCM_CREDENTIALS && sender)
			memcpy(sender, CMSG_DATA(header), sizeof(*sender));
	}
	return count;
}

#endif
