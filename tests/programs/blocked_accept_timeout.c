// accept(2) under SO_RCVTIMEO, which any stop would end with EINTR, is ended only by a connection after the move.
#include "blocked.h"
#include "listening.h"
#include <sys/time.h>

static int listener;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static void prepare(void)
{
	const struct timeval timeout = {.tv_sec = LONG_S};

	listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	CHECK(strlen(in_dir("s")) < sizeof(address.sun_path));
	strcpy(address.sun_path, in_dir("s"));
	MUST(bind(listener, (struct sockaddr *)&address, sizeof(address)));
	MUST(listen(listener, 64));
	MUST(setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout)));
}

static long blocked_call(void)
{
	return accept(listener, NULL, NULL) >= 0 ? 1 : -1;
}

static void wake_up(void)
{
	MUST(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&address, sizeof(address)));
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_accept, 1);
}
