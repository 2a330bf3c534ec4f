// Three workers share a listening socket and an epoll instance from before their birth, and all serve after the move.
#include "tree.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define WORKERS 3
#define CALLS 30

static int listener, watcher;

static void serve(void)
{
	pid_t self = getpid();

	EQUAL(write(tree_met[1], "+", 1), 1);
	close(tree_gate[1]);
	for (;;) {
		struct epoll_event event;
		int caller;

		CHECK(epoll_wait(watcher, &event, 1, -1) == 1 || errno == EINTR);
		if (event.data.u32 == 1)
			_exit(0);
		caller = accept(listener, NULL, NULL);
		if (caller < 0) {
			CHECK(errno == EAGAIN);
			continue;
		}
		EQUAL(write(caller, &self, sizeof(self)), (long)sizeof(self));
		close(caller);
		check_nap();
	}
}

static void watch(int fd, uint32_t mark)
{
	struct epoll_event event = {.events = EPOLLIN | (mark ? EPOLLHUP : 0), .data.u32 = mark};

	MUST(epoll_ctl(watcher, EPOLL_CTL_ADD, fd, &event));
}

static int served_by(struct sockaddr_in *where, const pid_t *workers)
{
	int caller = MUST(socket(AF_INET, SOCK_STREAM, 0));
	pid_t worker;

	MUST(connect(caller, (struct sockaddr *)where, sizeof(*where)));
	EQUAL(read(caller, &worker, sizeof(worker)), (long)sizeof(worker));
	close(caller);
	for (int i = 0; i < WORKERS; i++)
		if (workers[i] == worker)
			return i;
	check_fail("pid %d is no worker", worker);
}

int main(int argc, char **argv)
{
	struct sockaddr_in where = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof(where);
	pid_t workers[WORKERS];
	int served[WORKERS] = {0};

	tree_init(argc, argv);
	listener = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	MUST(bind(listener, (struct sockaddr *)&where, sizeof(where)));
	MUST(listen(listener, 64));
	MUST(getsockname(listener, (struct sockaddr *)&where, &size));
	watcher = MUST(epoll_create1(0));
	watch(listener, 0);
	watch(tree_gate[0], 1);
	for (int i = 0; i < WORKERS; i++) {
		workers[i] = MUST(fork());
		if (workers[i] == 0)
			serve();
	}
	tree_meet(WORKERS);
	check_ready_and_wait();
	for (int i = 0; i < CALLS; i++)
		served[served_by(&where, workers)]++;
	for (int i = 0; i < WORKERS; i++)
		CHECK(served[i] > 0);
	close(tree_gate[1]);
	for (int i = 0; i < WORKERS; i++)
		tree_join(workers[i]);
	return check_pass();
}
