// Direct reads by io_setup(2), many in flight at every moment: no page that the device wrote to is old in the copy.
// tags: live
#include "check.h"
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define PAGE 4096UL
#define PAGES 2048
#define DEPTH 64

struct request {
	struct iocb iocb;
	int page, block;
};

static struct request requests[DEPTH];
static uint64_t *memory;
static int blocks[PAGES]; /* what was read into each page */
static bool busy[PAGES];
static uint64_t turn;

static uint64_t *word_of(int page, size_t word)
{
	return memory + page * (PAGE / sizeof(uint64_t)) + word;
}

static unsigned int any(unsigned int limit)
{
	turn = turn * 6364136223846793005ULL + 1442695040888963407ULL;
	return (turn >> 33) % limit;
}

static void submit(aio_context_t context, struct request *request, int file)
{
	struct iocb *pointer = &request->iocb;

	do
		request->page = any(PAGES);
	while (busy[request->page]);
	busy[request->page] = true;
	request->block = any(PAGES);
	memset(pointer, 0, sizeof(*pointer));
	pointer->aio_data = (uintptr_t)request;
	pointer->aio_lio_opcode = IOCB_CMD_PREAD;
	pointer->aio_fildes = file;
	pointer->aio_buf = (uintptr_t)word_of(request->page, 0);
	pointer->aio_nbytes = PAGE;
	pointer->aio_offset = request->block * PAGE;
	EQUAL(MUST(syscall(SYS_io_submit, context, 1, &pointer)), 1);
}

static void expect_block(int page)
{
	EQUAL(*word_of(page, 0), blocks[page]);
	EQUAL(*word_of(page, PAGE / sizeof(uint64_t) - 1), blocks[page]);
}

static struct request *reap(aio_context_t context)
{
	struct io_event event;
	struct request *request;

	EQUAL(MUST(syscall(SYS_io_getevents, context, 1, 1, &event, NULL)), 1);
	EQUAL(event.res, PAGE);
	request = (struct request *)event.data;
	busy[request->page] = false;
	blocks[request->page] = request->block;
	expect_block(request->page);
	return request;
}

int main(int argc, char **argv)
{
	const struct timespec pause = {.tv_nsec = 1000 * 1000};
	aio_context_t context = 0;
	int file;

	check_init(argc, argv);
	memory = MUST(mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (int page = 0; page < PAGES; page++) {
		blocks[page] = page;
		for (size_t word = 0; word < PAGE / sizeof(uint64_t); word++)
			*word_of(page, word) = page;
	}
	file = MUST(open(in_dir("file"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
	EQUAL(MUST(write(file, memory, PAGES * PAGE)), PAGES * PAGE);
	EQUAL(fsync(file), 0);
	close(file);
	file = MUST(open(in_dir("file"), O_RDONLY | O_DIRECT | O_CLOEXEC));
	MUST(syscall(SYS_io_setup, DEPTH, &context));
	for (int i = 0; i < DEPTH; i++)
		submit(context, &requests[i], file);
	check_ready();
	for (int i = 0; !check_go(); i++) {
		submit(context, reap(context), file);
		if (i % 16 == 0)
			nanosleep(&pause, NULL);
	}
	for (int i = 0; i < DEPTH; i++)
		reap(context);
	for (int page = 0; page < PAGES; page++)
		expect_block(page);
	return check_pass();
}
