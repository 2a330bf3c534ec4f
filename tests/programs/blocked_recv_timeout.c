// recv(2) under SO_RCVTIMEO, which any stop would end with EINTR, is ended only by a datagram after it.
// later: UDP sockets
#include "blocked.h"
#include "listening.h"
#include <sys/time.h>

static int receiver;
static struct sockaddr_storage address;
static socklen_t address_size;

static void prepare(void)
{
	struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const struct timeval timeout = {.tv_sec = LONG_S};

	receiver = MUST(socket(AF_INET, SOCK_DGRAM, 0));
	MUST(bind(receiver, (struct sockaddr *)&loopback, sizeof(loopback)));
	MUST(setsockopt(receiver, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)));
	address_size = address_of(receiver, &address);
}

static long blocked_call(void)
{
	char text[8];

	return recv(receiver, text, sizeof(text), 0);
}

static void wake_up(void)
{
	EQUAL(sendto(receiver, "abc", 3, 0, (struct sockaddr *)&address, address_size), 3);
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_recvfrom, 3);
}
