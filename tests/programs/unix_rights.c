// Descriptors in flight arrive with the very message they were sent with, and are the files that they were.
#include "unix.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
	int stream[2], packet[2], outer[2], inner[2], loop[2], fds[16], sent[6], pipe_ends[2], file, poll_fd, event;
	struct epoll_event ready = {.events = EPOLLIN, .data.u64 = 4711};
	struct stat one, other;
	char byte[16];

	check_init(argc, argv);
	unix_pair(SOCK_STREAM, stream);
	unix_pair(SOCK_SEQPACKET, packet);
	file = MUST(open(in_dir("file"), O_RDWR | O_CREAT, 0600));
	EQUAL(write(file, "0123456789", 10), 10);
	MUST(lseek(file, 4, SEEK_SET));
	/* in flight only: one end of a pipe with something in it, an eventfd, an epoll that watches an open file */
	MUST(pipe(pipe_ends));
	EQUAL(write(pipe_ends[1], "in the pipe", 11), 11);
	event = MUST(eventfd(7, 0));
	poll_fd = MUST(epoll_create1(0));
	MUST(epoll_ctl(poll_fd, EPOLL_CTL_ADD, pipe_ends[1],
		       &(struct epoll_event){.events = EPOLLOUT, .data.u64 = 12}));
	MUST(epoll_ctl(poll_fd, EPOLL_CTL_ADD, stream[1], &ready));
	unix_send(stream[0], "before");
	memcpy(sent, (int[]){file, pipe_ends[0], event}, 3 * sizeof(int));
	unix_send_fds(stream[0], "with three", sent, 3);
	unix_send(stream[0], "after");
	unix_send_fds(stream[0], "one", &poll_fd, 1);
	unix_send_fds(stream[0], "two", &poll_fd, 1);
	unix_send_fds(packet[0], "listen", &stream[0], 1);
	MUST(close(pipe_ends[0]));
	MUST(close(event));
	MUST(close(poll_fd));
	/* nested: a socket in flight that holds a pipe's end in its own queue */
	unix_pair(SOCK_DGRAM, outer);
	unix_pair(SOCK_STREAM, inner);
	unix_send_fds(inner[0], "deep", &pipe_ends[1], 1);
	unix_send_fds(outer[0], "nested", &inner[1], 1);
	MUST(close(inner[1]));
	/* a socket in its own queue */
	unix_pair(SOCK_STREAM, loop);
	unix_send_fds(loop[0], "self", &loop[1], 1);
	check_ready_and_wait();
	EQUAL(unix_receive(stream[1], "befo", 4, fds, NULL), 0);
	EQUAL(unix_receive(stream[1], "re", 2, fds, NULL), 0);
	EQUAL(unix_receive(stream[1], "with three", 100, fds, NULL), 3);
	EQUAL(lseek(fds[0], 0, SEEK_CUR), 4);
	EQUAL(lseek(fds[0], 1, SEEK_CUR), 5);
	EQUAL(lseek(file, 0, SEEK_CUR), 5);
	MUST(fstat(fds[0], &one));
	MUST(fstat(file, &other));
	EQUAL(one.st_ino, other.st_ino);
	EQUAL(read(fds[1], byte, sizeof(byte)), 11);
	CHECK(memcmp(byte, "in the pipe", 11) == 0);
	EQUAL(write(pipe_ends[1], "more", 4), 4);
	EQUAL(read(fds[1], byte, sizeof(byte)), 4);
	EQUAL(read(fds[2], byte, sizeof(byte)), 8);
	EQUAL(byte[0], 7);
	EQUAL(unix_receive(stream[1], "afterone", 100, fds, NULL), 1);
	EQUAL(unix_receive(stream[1], "two", 100, fds + 1, NULL), 1);
	EQUAL(epoll_wait(fds[0], &ready, 1, 0), 1);
	EQUAL(ready.data.u64, 12);
	MUST(epoll_ctl(fds[1], EPOLL_CTL_DEL, pipe_ends[1], NULL));
	EQUAL(epoll_wait(fds[0], &ready, 1, 0), 0);
	unix_send(stream[0], "x");
	EQUAL(epoll_wait(fds[0], &ready, 1, 0), 1);
	EQUAL(ready.data.u64, 4711);
	unix_expect(stream[1], "x");
	EQUAL(unix_receive(packet[1], "listen", 100, fds, NULL), 1);
	unix_send(fds[0], "by the other");
	unix_expect(stream[1], "by the other");
	EQUAL(unix_receive(outer[1], "nested", 100, fds, NULL), 1);
	EQUAL(unix_receive(fds[0], "deep", 100, fds + 1, NULL), 1);
	MUST(fstat(fds[1], &one));
	MUST(fstat(pipe_ends[1], &other));
	EQUAL(one.st_ino, other.st_ino);
	unix_send(inner[0], "goes on");
	unix_expect(fds[0], "goes on");
	EQUAL(unix_receive(loop[1], "self", 100, fds, NULL), 1);
	unix_send(loop[0], "again");
	unix_expect(fds[0], "again");
	return check_pass();
}
