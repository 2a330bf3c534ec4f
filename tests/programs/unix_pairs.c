// Socket pairs of every type keep what waits in them, message by message, and go on in both directions.
#include "unix.h"
#include "pattern.h"

#define LARGE (96 * 1024)

static void fill(int type, int ends[2])
{
	unix_pair(type, ends);
	unix_send(ends[0], "first");
	unix_send(ends[0], "second message");
	unix_send(ends[1], "back");
}

static void check_goes_on(int ends[2])
{
	unix_expect_empty(ends[0]);
	unix_expect_empty(ends[1]);
	unix_send(ends[0], "there");
	unix_expect(ends[1], "there");
	unix_send(ends[1], "and back");
	unix_expect(ends[0], "and back");
}

int main(int argc, char **argv)
{
	static uint64_t words[LARGE / 8], got[LARGE / 8];
	int stream[2], datagram[2], packet[2], large[2], copy, empty[2];

	check_init(argc, argv);
	fill(SOCK_STREAM, stream);
	fill(SOCK_DGRAM | SOCK_CLOEXEC, datagram);
	fill(SOCK_SEQPACKET | SOCK_NONBLOCK, packet);
	unix_pair(SOCK_STREAM, large);
	pattern_fill(words, LARGE, 3);
	for (size_t sent = 0; sent < LARGE; sent += 8192)
		MUST(send(large[0], (char *)words + sent, 8192, MSG_DONTWAIT));
	unix_pair(SOCK_DGRAM, empty);
	unix_send(empty[0], "x");
	unix_send(empty[0], "");
	unix_send(empty[0], "y");
	copy = MUST(dup(stream[1]));
	check_ready_and_wait();
	unix_expect(copy, "firstsecond message");
	unix_expect(stream[0], "back");
	check_goes_on(stream);
	unix_expect(datagram[1], "first");
	unix_expect(datagram[1], "second message");
	unix_expect(datagram[0], "back");
	check_goes_on(datagram);
	unix_expect(packet[1], "first");
	unix_expect(packet[1], "second message");
	unix_expect(packet[0], "back");
	check_goes_on(packet);
	EQUAL(fcntl(packet[0], F_GETFL), O_RDWR | O_NONBLOCK);
	EQUAL(fcntl(stream[0], F_GETFL), O_RDWR);
	EQUAL(fcntl(datagram[1], F_GETFD), FD_CLOEXEC);
	EQUAL(recv(large[1], got, LARGE, MSG_WAITALL), LARGE);
	CHECK(memcmp(got, words, LARGE) == 0);
	unix_expect(empty[1], "x");
	unix_expect(empty[1], "");
	unix_expect(empty[1], "y");
	unix_expect_empty(empty[1]);
	return check_pass();
}
