// Every shutdown state, a peer that is gone with or without unread bytes, and half-closed pairs come back.
#include "unix.h"
#include <signal.h>

static short events(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};

	MUST(poll(&poll_fd, 1, 0));
	return poll_fd.revents;
}

int main(int argc, char **argv)
{
	static const int types[] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_DGRAM};
	int half[3][2], deaf[3][2], both[2], gone[3][2], reset[2];
	short before[3][4], reset_before;
	int error;
	socklen_t size = sizeof(error);

	check_init(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	for (int i = 0; i < 3; i++) {
		unix_pair(types[i], half[i]);
		unix_pair(types[i], deaf[i]);
		unix_pair(types[i], gone[i]);
		unix_send(half[i][0], "last words");
		MUST(shutdown(half[i][0], SHUT_WR));
		unix_send(deaf[i][1], "unheard");
		MUST(shutdown(deaf[i][0], SHUT_RD));
		unix_send(gone[i][1], "farewell");
		MUST(close(gone[i][1]));
		before[i][0] = events(half[i][0]);
		before[i][1] = events(half[i][1]);
		before[i][2] = events(deaf[i][0]);
		before[i][3] = events(gone[i][0]);
	}
	unix_pair(SOCK_STREAM, both);
	MUST(shutdown(both[0], SHUT_RDWR));
	unix_pair(SOCK_STREAM, reset);
	unix_send(reset[0], "never read");
	MUST(close(reset[1]));
	reset_before = events(reset[0]);
	check_ready_and_wait();
	for (int i = 0; i < 3; i++) {
		EQUAL(events(half[i][0]), before[i][0]);
		EQUAL(events(half[i][1]), before[i][1]);
		EQUAL(events(deaf[i][0]), before[i][2]);
		EQUAL(events(gone[i][0]), before[i][3]);
		EQUAL(send(half[i][0], "x", 1, MSG_DONTWAIT), -1);
		EQUAL(errno, EPIPE);
		unix_expect(half[i][1], "last words");
		unix_send(half[i][1], "answer");
		unix_expect(half[i][0], "answer");
		EQUAL(send(deaf[i][1], "x", 1, MSG_DONTWAIT), -1);
		EQUAL(errno, EPIPE);
		unix_expect(deaf[i][0], "unheard");
		unix_expect(gone[i][0], "farewell");
		EQUAL(send(gone[i][0], "x", 1, MSG_DONTWAIT), -1);
		EQUAL(errno, types[i] == SOCK_DGRAM ? ECONNREFUSED : EPIPE);
		if (types[i] != SOCK_DGRAM)
			unix_expect_end(gone[i][0]);
	}
	unix_expect_end(both[1]);
	EQUAL(events(reset[0]), reset_before);
	MUST(getsockopt(reset[0], SOL_SOCKET, SO_ERROR, &error, &size));
	EQUAL(error, ECONNRESET);
	unix_expect_end(reset[0]);
	return check_pass();
}
