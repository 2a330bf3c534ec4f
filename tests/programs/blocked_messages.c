// Calls that wait for messages, events and connections end as they would have without stops or a move.
#include "several.h"
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/un.h>

struct message {
	long type;
	char text[8];
};

static const struct timespec hour = {.tv_sec = LONG_S};
static const struct message some = {.type = 7, .text = "message"};
static mqd_t full_queue, empty_queue;
static int full_sysv, empty_sysv, set, listener, ends[2];
static struct sockaddr_un name = {.sun_family = AF_UNIX};

static void remove_queues(void)
{
	msgctl(full_sysv, IPC_RMID, NULL);
	msgctl(empty_sysv, IPC_RMID, NULL);
}

static long take_message(void)
{
	struct timespec until = in_an_hour(CLOCK_REALTIME);
	char text[8];

	return result_of(mq_timedreceive(empty_queue, text, sizeof(text), NULL, &until));
}

static void give_message(void)
{
	MUST(mq_send(empty_queue, "abc", 3, 0));
}

static long queue_message(void)
{
	struct timespec until = in_an_hour(CLOCK_REALTIME);

	return result_of(mq_timedsend(full_queue, "abcd", 4, 0, &until));
}

static void make_room_in_queue(void)
{
	char text[8];

	EQUAL(mq_receive(full_queue, text, sizeof(text), NULL), 3);
}

static long take_sysv(void)
{
	struct message got;

	return result_of(msgrcv(empty_sysv, &got, sizeof(got.text), some.type, 0));
}

static void give_sysv(void)
{
	MUST(msgsnd(empty_sysv, &some, 5, 0));
}

static long queue_sysv(void)
{
	return result_of(msgsnd(full_sysv, &some, sizeof(some.text), 0));
}

static void make_room_in_sysv(void)
{
	struct message got;

	EQUAL(msgrcv(full_sysv, &got, sizeof(got.text), 0, 0), sizeof(got.text));
}

static long wait_for_event(void)
{
	struct epoll_event event;
	sigset_t none;

	sigemptyset(&none);
	return result_of(syscall(SYS_epoll_pwait2, set, &event, 1, &hour, &none, 8));
}

static long select_one(void)
{
	sigset_t none;
	fd_set readable;

	sigemptyset(&none);
	FD_ZERO(&readable);
	FD_SET(ends[0], &readable);
	return result_of(pselect(ends[0] + 1, &readable, NULL, NULL, &hour, &none));
}

static void write_a_byte(void)
{
	EQUAL(write(ends[1], "+", 1), 1);
}

/* The call before woke it too. */
static void nothing_more(void)
{
}

static long accept_one(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	return fd < 0 ? -errno : (fcntl(fd, F_GETFL) & O_NONBLOCK) && fcntl(fd, F_GETFD) == FD_CLOEXEC;
}

static void connect_one(void)
{
	MUST(connect(MUST(socket(AF_UNIX, SOCK_STREAM, 0)), (struct sockaddr *)&name, sizeof(name)));
}

static const struct several all[] = {
	{"mq_timedreceive", SYS_mq_timedreceive, take_message, give_message, 3},
	{"mq_timedsend", SYS_mq_timedsend, queue_message, make_room_in_queue, 0},
	{"msgrcv", SYS_msgrcv, take_sysv, give_sysv, 5},
	{"msgsnd", SYS_msgsnd, queue_sysv, make_room_in_sysv, 0},
	{"epoll_pwait2", SYS_epoll_pwait2, wait_for_event, write_a_byte, 1},
	{"pselect6", SYS_pselect6, select_one, nothing_more, 1},
	{"accept4", SYS_accept4, accept_one, connect_one, 1},
};

static mqd_t open_queue(int number)
{
	struct mq_attr limits = {.mq_maxmsg = 1, .mq_msgsize = 8};
	char path[32];
	mqd_t queue;

	snprintf(path, sizeof(path), "/migrate-%d-%d", getpid(), number);
	queue = MUST(mq_open(path, O_RDWR | O_CREAT | O_EXCL, 0600, &limits));
	MUST(mq_unlink(path));
	return queue;
}

static void fill_queues(void)
{
	struct msqid_ds limits;

	full_queue = open_queue(0);
	empty_queue = open_queue(1);
	MUST(mq_send(full_queue, "one", 3, 0));
	full_sysv = MUST(msgget(IPC_PRIVATE, 0600));
	empty_sysv = MUST(msgget(IPC_PRIVATE, 0600));
	MUST(atexit(remove_queues));
	check_on_fail = remove_queues;
	MUST(msgctl(full_sysv, IPC_STAT, &limits));
	limits.msg_qbytes = sizeof(some.text);
	MUST(msgctl(full_sysv, IPC_SET, &limits));
	MUST(msgsnd(full_sysv, &some, sizeof(some.text), 0));
}

static void open_sockets(void)
{
	struct epoll_event readable = {.events = EPOLLIN};

	MUST(pipe(ends));
	set = MUST(epoll_create1(0));
	MUST(epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &readable));
	snprintf(name.sun_path, sizeof(name.sun_path), "%s/socket", check_dir);
	listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
	MUST(bind(listener, (struct sockaddr *)&name, sizeof(name)));
	MUST(listen(listener, 1));
}

int main(int argc, char **argv)
{
	check_init(argc, argv);
	fill_queues();
	open_sockets();
	return run_several(all, sizeof(all) / sizeof(all[0]));
}
