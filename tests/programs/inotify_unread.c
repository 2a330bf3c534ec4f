// inotify events that nobody has read yet come as an overflow; the watches report what happens later.
#include "check.h"

#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#define PATIENCE_MS 10000

static struct inotify_event *next(int fd)
{
	static char buffer[4096] __attribute__((aligned(8)));
	struct pollfd one = {.fd = fd, .events = POLLIN};

	if (MUST(poll(&one, 1, PATIENCE_MS)) == 0)
		check_fail("no event came");
	CHECK(read(fd, buffer, sizeof(buffer)) >= (ssize_t)sizeof(struct inotify_event));
	return (struct inotify_event *)buffer;
}

static void touch(const char *name)
{
	MUST(close(MUST(open(in_dir(name), O_WRONLY | O_CREAT, 0600))));
}

int main(int argc, char **argv)
{
	struct pollfd one;

	check_init(argc, argv);
	MUST(mkdir(in_dir("folder"), 0755));
	one = (struct pollfd){.fd = MUST(inotify_init1(0)), .events = POLLIN};
	EQUAL(inotify_add_watch(one.fd, in_dir("folder"), IN_CREATE | IN_DELETE), 1);
	touch("folder/before");

	check_ready_and_wait();

	EQUAL(fcntl(one.fd, F_GETFL) & O_NONBLOCK, 0);
	/* Undisturbed it is the event itself. */
	struct inotify_event *event = next(one.fd);
	CHECK(event->mask == IN_Q_OVERFLOW || (event->mask == IN_CREATE && event->wd == 1));
	EQUAL(MUST(poll(&one, 1, 0)), 0);
	touch("folder/after");
	EQUAL(next(one.fd)->mask, IN_CREATE);
	MUST(unlink(in_dir("folder/after")));
	EQUAL(next(one.fd)->mask, IN_DELETE);
	return check_pass();
}
