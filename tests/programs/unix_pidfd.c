// A datagram that waits where pidfds are asked for (SO_PASSPIDFD) comes with that of its sender.
#include "check.h"

#include <sys/socket.h>
#include <sys/syscall.h>

#define SO_PASSPIDFD_ 76 /* newer than the headers */
#define SCM_PIDFD_ 4

/* The pidfd that comes with the next packet. */
static int receive(int fd)
{
	char payload[8], control[128];
	struct iovec room = {payload, sizeof(payload)};
	struct msghdr message = {
		.msg_iov = &room, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *head;
	int pidfd;

	EQUAL(recvmsg(fd, &message, MSG_DONTWAIT), 2);
	EQUAL(message.msg_flags, 0);
	head = CMSG_FIRSTHDR(&message);
	CHECK(head && head->cmsg_type == SCM_PIDFD_);
	memcpy(&pidfd, CMSG_DATA(head), sizeof(pidfd));
	CHECK(CMSG_NXTHDR(&message, head) == NULL);
	return pidfd;
}

int main(int argc, char **argv)
{
	int pair[2], one = 1;

	check_init(argc, argv);
	MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair));
	if (setsockopt(pair[0], SOL_SOCKET, SO_PASSPIDFD_, &one, sizeof(one)) < 0) /* since Linux 6.5 */
		EQUAL(errno, ENOPROTOOPT);
	EQUAL(send(pair[1], "hi", 2, 0), 2);
	check_ready_and_wait();
	if (getsockopt(pair[0], SOL_SOCKET, SO_PASSPIDFD_, &one, &(socklen_t){sizeof(one)}) < 0)
		return check_pass();
	EQUAL(one, 1);
	EQUAL(syscall(SYS_pidfd_send_signal, receive(pair[0]), 0, NULL, 0), 0);
	EQUAL(send(pair[1], "ho", 2, 0), 2);
	EQUAL(syscall(SYS_pidfd_send_signal, receive(pair[0]), 0, NULL, 0), 0);
	return check_pass();
}
