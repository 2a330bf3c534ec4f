// inotify watches keep their numbers and masks, and report what happens later.
#include "check.h"

#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

static struct inotify_event *next(int fd)
{
	static char buffer[4096] __attribute__((aligned(8)));

	CHECK(read(fd, buffer, sizeof(buffer)) >= (ssize_t)sizeof(struct inotify_event));
	return (struct inotify_event *)buffer;
}

static int quiet(int fd)
{
	struct pollfd one = {.fd = fd, .events = POLLIN};

	return MUST(poll(&one, 1, 0)) == 0;
}

static void touch(const char *name)
{
	MUST(close(MUST(open(in_dir(name), O_WRONLY | O_CREAT, 0600))));
}

int main(int argc, char **argv)
{
	check_init(argc, argv);
	MUST(mkdir(in_dir("folder"), 0755));
	MUST(mkdir(in_dir("later"), 0755));
	touch("file");
	int fd = MUST(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
	EQUAL(inotify_add_watch(fd, in_dir("file"), IN_ATTRIB), 1);
	EQUAL(inotify_add_watch(fd, in_dir("folder"), IN_CREATE | IN_ONLYDIR), 2);
	MUST(inotify_rm_watch(fd, 1));
	EQUAL(next(fd)->mask, IN_IGNORED);
	EQUAL(inotify_add_watch(fd, in_dir("later"), IN_DELETE), 3);
	touch("folder/before");
	EQUAL(next(fd)->wd, 2);

	check_ready_and_wait();

	CHECK(quiet(fd));
	EQUAL(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	touch("folder/after");
	struct inotify_event *event = next(fd);
	EQUAL(event->wd, 2);
	EQUAL(event->mask, IN_CREATE);
	CHECK(strcmp(event->name, "after") == 0);
	MUST(unlink(in_dir("folder/after")));
	CHECK(quiet(fd));
	touch("later/one");
	MUST(unlink(in_dir("later/one")));
	EQUAL(next(fd)->wd, 3);
	EQUAL(inotify_add_watch(fd, in_dir("later"), IN_DELETE), 3);
	return check_pass();
}
