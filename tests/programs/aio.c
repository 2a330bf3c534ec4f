// Contexts of io_setup(2) keep events that were not read, in a wrapped ring too, get what is in flight, and work on.
#include "check.h"
#include <linux/aio_abi.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#define RECORD 512
#define SMALL 0
#define WRAPPED 1
#define LARGE 2
#define FRESH 3
#define WAITED 4
#define CONTEXTS 5
#define SOON_NS (300 * 1000 * 1000L)

struct ring {
	unsigned int id, nr, head, tail, magic, compatible, incompatible, size;
	struct io_event events[];
};

struct request {
	struct iocb iocb;
	char buffer[RECORD];
};

static const unsigned int sizes[CONTEXTS] = {1, 60, 1000, 8, 4};
static aio_context_t contexts[CONTEXTS];
static struct request requests[256];
static int file;

static struct ring *ring_of(int context)
{
	return (struct ring *)contexts[context];
}

/* Even ones write, odd ones read what the one before has written. */
static void submit(int context, int first, int count)
{
	for (int i = first; i < first + count; i++) {
		struct request *request = &requests[i % 256];
		struct iocb *pointer = &request->iocb;

		memset(request, i, sizeof(*request));
		memset(pointer, 0, sizeof(*pointer));
		pointer->aio_data = 0xd00d000000000000ULL + i;
		pointer->aio_lio_opcode = i % 2 ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE;
		pointer->aio_fildes = file;
		pointer->aio_buf = (uintptr_t)request->buffer;
		pointer->aio_nbytes = RECORD - i % 7;
		pointer->aio_offset = (long long)(i / 2) * RECORD;
		EQUAL(MUST(syscall(SYS_io_submit, contexts[context], 1, &pointer)), 1);
	}
}

static void expect_event(const struct io_event *event, int i)
{
	struct request *request = &requests[i % 256];

	EQUAL(event->data, 0xd00d000000000000ULL + i);
	EQUAL(event->obj, (uintptr_t)&request->iocb);
	EQUAL(event->res, RECORD - i % 7);
	EQUAL(event->res2, 0);
	if (i % 2)
		EQUAL(request->buffer[0], (char)(i - 1));
}

static void reap(int context, int first, int count)
{
	const struct timespec patience = {.tv_sec = 20};
	struct io_event events[16];

	for (int i = 0; i < count;) {
		int wanted = count - i < 16 ? count - i : 16;

		EQUAL(MUST(syscall(SYS_io_getevents, contexts[context], wanted, wanted, events, &patience)), wanted);
		for (int j = 0; j < wanted; j++)
			expect_event(&events[j], first + i + j);
		i += wanted;
	}
}

static void expect_none(int context)
{
	const struct timespec now = {0};
	struct io_event event;

	EQUAL(MUST(syscall(SYS_io_getevents, contexts[context], 0, 1, &event, &now)), 0);
}

/* A request that is in flight until the timer says so. */
static aio_context_t submit_poll(void)
{
	const struct itimerspec soon = {.it_value = {.tv_nsec = SOON_NS}};
	static struct iocb iocb = {.aio_data = 77, .aio_lio_opcode = IOCB_CMD_POLL, .aio_buf = POLLIN};
	struct iocb *pointer = &iocb;
	aio_context_t context = 0;

	iocb.aio_fildes = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
	MUST(timerfd_settime(iocb.aio_fildes, 0, &soon, NULL));
	MUST(syscall(SYS_io_setup, 1, &context));
	EQUAL(MUST(syscall(SYS_io_submit, context, 1, &pointer)), 1);
	return context;
}

static void *wait_for_one(void *unused)
{
	struct io_event event;

	(void)unused;
	EQUAL(MUST(syscall(SYS_io_getevents, contexts[WAITED], 1, 1, &event, NULL)), 1);
	expect_event(&event, 0);
	return NULL;
}

/* As much as the ring takes twice over. */
static void use(int context)
{
	unsigned int nr = ring_of(context)->nr;

	for (unsigned int done = 0; done < 2 * nr; done += 10) {
		submit(context, 0, 10);
		reap(context, 0, 10);
	}
	expect_none(context);
}

int main(int argc, char **argv)
{
	unsigned int heads[CONTEXTS], tails[CONTEXTS], nrs[CONTEXTS];
	aio_context_t polled;
	struct io_event event;
	pthread_t waiting;

	check_init(argc, argv);
	file = MUST(memfd_create("file", MFD_CLOEXEC));
	MUST(ftruncate(file, sizeof(requests)));
	for (int i = 0; i < CONTEXTS; i++)
		MUST(syscall(SYS_io_setup, sizes[i], &contexts[i]));
	submit(SMALL, 0, 5);
	reap(SMALL, 0, 3); /* two are left */
	for (unsigned int done = 0; done < ring_of(WRAPPED)->nr - 10; done++) {
		submit(WRAPPED, 100, 1);
		reap(WRAPPED, 100, 1);
	}
	submit(WRAPPED, 20, 30);
	CHECK(ring_of(WRAPPED)->tail < ring_of(WRAPPED)->head);
	submit(LARGE, 64, 180);
	reap(LARGE, 64, 20);
	for (int i = 0; i < CONTEXTS; i++) {
		nrs[i] = ring_of(i)->nr;
		heads[i] = ring_of(i)->head;
		tails[i] = ring_of(i)->tail;
	}
	waiting = thread_start(wait_for_one, NULL);
	polled = submit_poll();
	check_ready_and_wait();
	EQUAL(MUST(syscall(SYS_io_getevents, polled, 1, 1, &event, NULL)), 1);
	EQUAL(event.data, 77);
	EQUAL(event.res, POLLIN);
	submit(WAITED, 0, 1);
	thread_join(waiting);
	tails[WAITED] = heads[WAITED] = 1;
	for (int i = 0; i < CONTEXTS; i++) {
		EQUAL(ring_of(i)->nr, nrs[i]);
		EQUAL(ring_of(i)->head, heads[i]);
		EQUAL(ring_of(i)->tail, tails[i]);
		EQUAL(ring_of(i)->magic, 0xa10a10a1);
	}
	EQUAL(ring_of(SMALL)->events[heads[SMALL]].data, 0xd00d000000000003ULL); /* as libaio reads them */
	reap(SMALL, 3, 2);
	reap(LARGE, 84, 160);
	reap(WRAPPED, 20, 30);
	for (int i = 0; i < CONTEXTS; i++) {
		expect_none(i);
		use(i);
		EQUAL(syscall(SYS_io_destroy, contexts[i]), 0);
	}
	EQUAL(syscall(SYS_io_destroy, contexts[SMALL]), -1);
	return check_pass();
}
