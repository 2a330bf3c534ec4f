// Across processes: clients that wait for accept, datagrams with their senders, descriptors in flight, credentials.
#include "tree.h"
#include "unix.h"

static struct sockaddr_un place, box, mine;
static socklen_t place_size, box_size, mine_size;

static void live(int end)
{
	int client = unix_connected(SOCK_STREAM, &place, place_size), fds[16], letter;

	letter = unix_bound(SOCK_DGRAM, &mine, mine_size);
	MUST(connect(letter, (struct sockaddr *)&box, box_size));
	unix_send(letter, "by mail");
	unix_send(end, "who am i");
	tree_wait();
	EQUAL(unix_receive(end, "take this", 100, fds, NULL), 1);
	EQUAL(write(fds[0], "through the pipe", 16), 16);
	unix_send(client, "accepted at last");
	_exit(0);
}

int main(int argc, char **argv)
{
	int listener, post, ends[2], pipe_ends[2], fds[16], on = 1;
	struct ucred sender = {0};
	struct sockaddr_un from = {0};
	socklen_t size = sizeof(from);
	char text[32] = "";
	pid_t child;

	tree_init(argc, argv);
	place_size = unix_path(&place, in_dir("place"));
	box_size = unix_abstract(&box, "box");
	mine_size = unix_path(&mine, in_dir("mine"));
	listener = unix_bound(SOCK_STREAM, &place, place_size);
	MUST(listen(listener, 5));
	post = unix_bound(SOCK_DGRAM, &box, box_size);
	unix_pair(SOCK_SEQPACKET, ends);
	MUST(setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
	child = MUST(fork());
	if (child == 0) {
		MUST(close(listener));
		MUST(close(post));
		MUST(close(ends[0]));
		live(ends[1]);
	}
	MUST(close(ends[1]));
	MUST(pipe(pipe_ends));
	unix_send_fds(ends[0], "take this", &pipe_ends[1], 1);
	MUST(close(pipe_ends[1]));
	tree_ready_and_wait(1);
	EQUAL(unix_receive(ends[0], "who am i", 100, fds, &sender), 0);
	EQUAL(sender.pid, child);
	EQUAL(recvfrom(post, text, sizeof(text), MSG_DONTWAIT, (struct sockaddr *)&from, &size), 7);
	EQUAL(size, mine_size);
	CHECK(memcmp(&from, &mine, size) == 0);
	EQUAL(read(pipe_ends[0], text, sizeof(text)), 16);
	EQUAL(read(pipe_ends[0], text, sizeof(text)), 0);
	fds[0] = MUST(accept(listener, NULL, NULL));
	tree_join(child);
	unix_expect(fds[0], "accepted at last");
	unix_expect_end(fds[0]);
	return check_pass();
}
