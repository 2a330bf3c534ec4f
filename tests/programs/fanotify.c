// A fanotify group keeps its marks and what they leave out, and brings events as it did.
// requires: root
#include "check.h"

#include <sys/fanotify.h>
#include <sys/stat.h>

/* Path and process of the next event; "" when there is none. */
static const char *next(int fd, pid_t *pid)
{
	static char path[PATH_MAX];
	struct fanotify_event_metadata event;
	char link[64];
	ssize_t length;

	path[0] = 0;
	if (read(fd, &event, sizeof(event)) < 0) {
		EQUAL(errno, EAGAIN);
		return path;
	}
	*pid = event.pid;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", event.fd);
	length = MUST(readlink(link, path, sizeof(path) - 1));
	path[length] = 0;
	CHECK(fcntl(event.fd, F_GETFL) & O_NOATIME);
	MUST(close(event.fd));
	return path;
}

static void touch(const char *name)
{
	MUST(close(MUST(open(in_dir(name), O_RDWR | O_CREAT, 0600))));
}

int main(int argc, char **argv)
{
	pid_t pid = 0;

	check_init(argc, argv);
	MUST(mkdir(in_dir("folder"), 0755));
	touch("folder/seen");
	touch("folder/left_out");
	int fd = MUST(fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY | O_NOATIME | O_LARGEFILE));
	MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_CLOSE_WRITE | FAN_EVENT_ON_CHILD, AT_FDCWD, in_dir("folder")));
	MUST(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_CLOSE_WRITE,
			   AT_FDCWD, in_dir("folder/left_out")));

	check_ready_and_wait();

	EQUAL(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	EQUAL(fcntl(fd, F_GETFD), FD_CLOEXEC);
	touch("folder/left_out");
	touch("folder/seen");
	CHECK(strcmp(next(fd, &pid), in_dir("folder/seen")) == 0);
	EQUAL(pid, getpid());
	CHECK(*next(fd, &pid) == 0);
	return check_pass();
}
