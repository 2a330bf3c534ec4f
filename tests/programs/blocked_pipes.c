// Calls that wait for room or bytes in pipes, or for the other end of a FIFO, end as they would have without stops or a move.
#include "several.h"
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define FIFO "fifo"

static int from[2], to[2], seen[2], shown[2], full_pipe[2], counter;
static char page[4096] __attribute__((aligned(4096)));

static long move_bytes(void)
{
	return result_of(splice(from[0], NULL, to[1], NULL, sizeof(page), 0));
}

static void give_bytes(void)
{
	EQUAL(write(from[1], "abcd", 4), 4);
}

static long show_bytes(void)
{
	return result_of(tee(seen[0], shown[1], sizeof(page), 0));
}

static void give_bytes_to_see(void)
{
	EQUAL(write(seen[1], "abcde", 5), 5);
}

static long give_page(void)
{
	struct iovec whole = {page, sizeof(page)};

	return result_of(vmsplice(full_pipe[1], &whole, 1, 0));
}

static void make_room_in_pipe(void)
{
	EQUAL(read(full_pipe[0], page, sizeof(page)), sizeof(page));
}

static long add(void)
{
	const uint64_t two = 2;

	return result_of(write(counter, &two, sizeof(two)));
}

static void take_count(void)
{
	uint64_t count;

	EQUAL(read(counter, &count, sizeof(count)), sizeof(count));
	EQUAL(count, UINT64_MAX - 1);
}

static long open_fifo(void)
{
	return MUST(open(in_dir(FIFO), O_RDONLY)) >= 0;
}

static void open_other_end(void)
{
	MUST(open(in_dir(FIFO), O_WRONLY));
}

static const struct several all[] = {
	{"splice", SYS_splice, move_bytes, give_bytes, 4},
	{"tee", SYS_tee, show_bytes, give_bytes_to_see, 5},
	{"vmsplice", SYS_vmsplice, give_page, make_room_in_pipe, sizeof(page)},
	{"write to an eventfd", SYS_write, add, take_count, sizeof(uint64_t)},
	{"open of a FIFO", SYS_openat, open_fifo, open_other_end, 1},
};

int main(int argc, char **argv)
{
	const uint64_t most = UINT64_MAX - 1;

	check_init(argc, argv);
	MUST(pipe(from));
	MUST(pipe(to));
	MUST(pipe(seen));
	MUST(pipe(shown));
	MUST(pipe(full_pipe));
	MUST(fcntl(full_pipe[1], F_SETPIPE_SZ, sizeof(page)));
	EQUAL(write(full_pipe[1], page, sizeof(page)), sizeof(page));
	counter = MUST(eventfd(0, 0));
	EQUAL(write(counter, &most, sizeof(most)), sizeof(most));
	MUST(mkfifo(in_dir(FIFO), 0600));
	return run_several(all, sizeof(all) / sizeof(all[0]));
}
