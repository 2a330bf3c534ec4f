// A watched directory tells nothing of the move: not of files that are opened again, nor of sockets bound anew there.
#include "check.h"

#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define NAMES (IN_CREATE | IN_DELETE | IN_MOVE | IN_ATTRIB | IN_ONLYDIR)
#define MASK (NAMES | IN_OPEN | IN_MODIFY | IN_ACCESS)

static void listen_at(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = MUST(socket(AF_UNIX, SOCK_STREAM, 0));

	strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
	MUST(bind(fd, (struct sockaddr *)&address, sizeof(address)));
	MUST(listen(fd, 1));
}

static void send_away(int way, int sent)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} rights = {.head = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct iovec one = {"x", 1};
	struct msghdr message = {
		.msg_iov = &one, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof(rights)};

	memcpy(CMSG_DATA(&rights.head), &sent, sizeof(sent));
	EQUAL(sendmsg(way, &message, 0), 1);
	MUST(close(sent));
}

static int receive(int way)
{
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} rights;
	char byte;
	struct iovec one = {&byte, 1};
	struct msghdr message = {
		.msg_iov = &one, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof(rights)};
	int received;

	EQUAL(recvmsg(way, &message, 0), 1);
	memcpy(&received, CMSG_DATA(&rights.head), sizeof(received));
	return received;
}

static void check_nothing(int set)
{
	union {
		struct inotify_event event;
		char room[4096];
	} found;

	if (read(set, &found, sizeof(found)) >= 0)
		check_fail("%x of %s", found.event.mask, found.event.len ? found.event.name : "the directory");
	EQUAL(errno, EAGAIN);
}

int main(int argc, char **argv)
{
	int set, once, sent, deleted, way[2];
	struct stat found;

	check_init(argc, argv);
	set = MUST(inotify_init1(IN_NONBLOCK)); /* its number is lower than those of the files */
	once = MUST(inotify_init1(IN_NONBLOCK));
	sent = MUST(inotify_init1(IN_NONBLOCK)); /* nobody has it when it moves: it waits in a socket */
	MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, way));
	MUST(mkdir(in_dir("watched"), 0755));
	MUST(mkfifo(in_dir("watched/fifo"), 0600));
	listen_at(in_dir("watched/socket"));
	MUST(open(in_dir("watched"), O_RDONLY | O_DIRECTORY));
	MUST(open(in_dir("watched/file"), O_RDWR | O_CREAT, 0600));
	MUST(open(in_dir("watched/fifo"), O_RDWR));
	MUST(mkdir(in_dir("lost"), 0755)); /* what is deleted there is read for the move, which IN_OPEN would tell */
	deleted = MUST(open(in_dir("lost/deleted"), O_RDWR | O_CREAT, 0600));
	MUST(unlink(in_dir("lost/deleted")));
	MUST(inotify_add_watch(set, in_dir("watched"), MASK));
	MUST(inotify_add_watch(set, in_dir("lost"), NAMES));
	MUST(inotify_add_watch(set, in_dir("watched/file"), IN_OPEN | IN_ATTRIB));
	MUST(inotify_add_watch(once, in_dir("watched"), IN_CREATE | IN_ONESHOT | IN_EXCL_UNLINK));
	MUST(inotify_add_watch(sent, in_dir("watched"), NAMES));
	send_away(way[0], sent);
	check_ready_and_wait();
	check_nothing(set);
	check_nothing(receive(way[1]));
	check_nothing(once);
	MUST(fstat(deleted, &found));
	EQUAL(found.st_nlink, 0);
	MUST(mkdir(in_dir("watched/new"), 0755));
	EQUAL(read(set, (char[64]){0}, 64), sizeof(struct inotify_event) + 16);
	EQUAL(read(once, (char[64]){0}, 64), 2 * sizeof(struct inotify_event) + 16); /* and IN_IGNORED: that was it */
	return check_pass();
}
