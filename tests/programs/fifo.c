// Named pipes keep what is in them: with both ends, one end, a deleted name; a reader that waits is not hung up.
#include "check.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

static int end_of(const char *name, int flags)
{
	return MUST(open(in_dir(name), flags | O_CLOEXEC));
}

static const char *make(const char *name)
{
	MUST(mkfifo(in_dir(name), 0600));
	return name;
}

static short polled(int fd)
{
	struct pollfd one = {.fd = fd, .events = POLLIN};

	MUST(poll(&one, 1, 0));
	return one.revents;
}

int main(int argc, char **argv)
{
	char text[64];

	check_init(argc, argv);
	make("both");
	int reader = end_of("both", O_RDONLY | O_NONBLOCK), writer = end_of("both", O_WRONLY | O_APPEND);
	EQUAL(fcntl(writer, F_SETPIPE_SZ, 4096 * 4), 4096 * 4);
	EQUAL(write(writer, "first", 5), 5);

	int own = end_of(make("own"), O_RDWR);
	EQUAL(write(own, "own", 3), 3);

	int waits = end_of(make("waits"), O_RDONLY | O_NONBLOCK);

	int left = end_of(make("left"), O_RDONLY | O_NONBLOCK), gone = end_of("left", O_WRONLY);
	EQUAL(write(gone, "left", 4), 4);
	MUST(close(gone));

	int nameless = end_of(make("nameless"), O_RDWR), second = end_of("nameless", O_RDONLY);
	MUST(unlink(in_dir("nameless")));
	EQUAL(write(nameless, "nameless", 8), 8);

	check_ready_and_wait();

	EQUAL(fcntl(reader, F_GETFL) & (O_NONBLOCK | O_APPEND | O_ACCMODE), O_NONBLOCK);
	EQUAL(fcntl(writer, F_GETFL) & (O_NONBLOCK | O_APPEND | O_ACCMODE), O_APPEND | O_WRONLY);
	EQUAL(fcntl(reader, F_GETPIPE_SZ), 4096 * 4);
	EQUAL(write(writer, "second", 6), 6);
	EQUAL(read(reader, text, sizeof(text)), 11);
	CHECK(memcmp(text, "firstsecond", 11) == 0);
	EQUAL(read(reader, text, 1), -1);
	EQUAL(errno, EAGAIN);

	EQUAL(read(own, text, sizeof(text)), 3);

	EQUAL(polled(waits), 0);
	int late = end_of("waits", O_WRONLY);
	EQUAL(write(late, "late", 4), 4);
	EQUAL(polled(waits), POLLIN);

	EQUAL(polled(left), POLLIN | POLLHUP);
	EQUAL(read(left, text, sizeof(text)), 4);
	EQUAL(read(left, text, sizeof(text)), 0);

	EQUAL(access(in_dir("nameless"), F_OK), -1);
	EQUAL(read(second, text, sizeof(text)), 8);
	CHECK(memcmp(text, "nameless", 8) == 0);
	return check_pass();
}
