// accept(2) is not ended by the move, but by a connection made after it.
#include "blocked.h"
#include "listening.h"

static int listener;
static struct sockaddr_storage address;
static socklen_t address_size;

static void prepare(void)
{
	struct sockaddr_in loopback = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

	listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
	MUST(bind(listener, (struct sockaddr *)&loopback, sizeof(loopback)));
	MUST(listen(listener, 64));
	address_size = address_of(listener, &address);
}

static long blocked_call(void)
{
	return accept(listener, NULL, NULL) >= 0 ? 1 : -1;
}

static void wake_up(void)
{
	MUST(connect(MUST(socket(AF_INET, SOCK_STREAM, 0)), (struct sockaddr *)&address, address_size));
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_accept, 1);
}
