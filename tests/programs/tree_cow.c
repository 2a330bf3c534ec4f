// Parent, children and grandchildren have their own contents in memory that they inherited, whoever wrote what of it.
#include "pattern.h"
#include "tree.h"
#include <sys/mman.h>

#define PAGES 1024UL
#define SIZE (PAGES * PAGE)
#define SEED 1
#define OWN(who) ((who)*1000000UL)

enum { PARENT = 2, WRITER, CUTTER, DROPPER, GRANDCHILD, IDLER, CHILDREN = 5 };

static char *memory, *file, *heap;

static void write_page(unsigned long who, unsigned long page)
{
	pattern_fill(memory + page * PAGE, PAGE, OWN(who) + page);
}

static void check_page(unsigned long who, unsigned long page)
{
	pattern_check(memory + page * PAGE, PAGE, who ? OWN(who) + page : SEED + page * PAGE / 8);
}

static void check_zero(const char *page)
{
	static const char zero[PAGE];

	CHECK(memcmp(page, zero, PAGE) == 0);
}

/* Every page becomes ours; nobody else may see it. The region is still one: it can grow. */
static void take_all(unsigned long who)
{
	for (unsigned long page = 0; page < PAGES; page++)
		write_page(who, page);
	memory = MUST(mremap(memory, SIZE, 2 * SIZE, MREMAP_MAYMOVE));
	for (unsigned long page = 0; page < PAGES; page++)
		check_page(who, page);
	check_zero(memory + 2 * SIZE - PAGE);
}

static void check_others(void)
{
	pattern_check(file, 4 * PAGE, 77);
	pattern_check(heap, 64 * PAGE, 99);
}

static void live_as_writer(void)
{
	for (unsigned long page = 0; page < PAGES; page += 3)
		write_page(WRITER, page);
	heap = realloc(heap, 96 * PAGE);
	pattern_fill(heap + 64 * PAGE, 32 * PAGE, 5);
	tree_wait();
	for (unsigned long page = 0; page < PAGES; page++)
		check_page(page % 3 ? 0 : WRITER, page);
	pattern_check(heap + 64 * PAGE, 32 * PAGE, 5);
	check_others();
	take_all(WRITER);
}

/* 0-99 moved away, 100-199 unmapped, 200-299 mapped anew, 300-399 may be read, 400-499 may not. */
static void live_as_cutter(void)
{
	char *moved = MUST(mmap(NULL, 100 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));

	MUST(mremap(memory, 100 * PAGE, 100 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, moved));
	MUST(munmap(memory + 100 * PAGE, 100 * PAGE));
	MUST(mmap(memory + 200 * PAGE, 100 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		  0));
	MUST(mprotect(memory + 300 * PAGE, 100 * PAGE, PROT_READ));
	MUST(mprotect(memory + 400 * PAGE, 100 * PAGE, PROT_NONE));
	write_page(CUTTER, 250);
	tree_wait();
	pattern_check(moved, 100 * PAGE, SEED);
	EQUAL(msync(memory + 100 * PAGE, PAGE, MS_ASYNC), -1);
	EQUAL(errno, ENOMEM);
	for (unsigned long page = 200; page < 300; page++)
		page == 250 ? check_page(CUTTER, page) : check_zero(memory + page * PAGE);
	EQUAL(write(tree_met[1], memory + 400 * PAGE, 1), -1);
	EQUAL(errno, EFAULT);
	MUST(mprotect(memory + 400 * PAGE, 100 * PAGE, PROT_READ));
	for (unsigned long page = 300; page < PAGES; page++)
		check_page(0, page);
	check_others();
}

static void live_as_grandchild(void)
{
	for (unsigned long page = 700; page < 800; page++)
		write_page(GRANDCHILD, page);
	tree_wait();
	for (unsigned long page = 0; page < 500; page++)
		check_zero(memory + page * PAGE);
	for (unsigned long page = 500; page < PAGES; page++)
		check_page(page < 600 ? DROPPER : page >= 700 && page < 800 ? GRANDCHILD : 0, page);
	check_others();
	take_all(GRANDCHILD);
	_exit(0);
}

/* 0-499 dropped, 500-599 written before it had a child, 600-649 after. */
static void live_as_dropper(void)
{
	pid_t child;

	MUST(madvise(memory, 500 * PAGE, MADV_DONTNEED));
	for (unsigned long page = 500; page < 600; page++)
		write_page(DROPPER, page);
	child = MUST(fork());
	if (child == 0)
		live_as_grandchild();
	for (unsigned long page = 600; page < 650; page++)
		write_page(DROPPER, page);
	tree_wait();
	for (unsigned long page = 0; page < 500; page++)
		check_zero(memory + page * PAGE);
	for (unsigned long page = 500; page < PAGES; page++)
		check_page(page < 650 ? DROPPER : 0, page);
	check_others();
	tree_join(child);
	for (unsigned long page = 500; page < PAGES; page++)
		check_page(page < 650 ? DROPPER : 0, page);
}

static void live_as_idler(void)
{
	tree_wait();
	for (unsigned long page = 0; page < PAGES; page++)
		check_page(0, page);
	check_others();
	take_all(IDLER);
}

static pid_t bear(void (*live)(void))
{
	pid_t child = MUST(fork());

	if (child)
		return child;
	live();
	_exit(0);
}

/* Pages of a file's private mapping that were written are inherited like any others. */
static char *map_file(void)
{
	int fd = MUST(open(in_dir("mapped"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	char *mapped;

	MUST(ftruncate(fd, 4 * PAGE));
	mapped = MUST(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	close(fd);
	pattern_fill(mapped, 4 * PAGE, 77);
	return mapped;
}

int main(int argc, char **argv)
{
	pid_t children[4];

	tree_init(argc, argv);
	memory = MUST(mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	pattern_fill(memory, SIZE, SEED);
	heap = malloc(64 * PAGE);
	CHECK(heap);
	pattern_fill(heap, 64 * PAGE, 99);
	file = map_file();
	children[0] = bear(live_as_writer);
	children[1] = bear(live_as_cutter);
	children[2] = bear(live_as_dropper);
	children[3] = bear(live_as_idler);
	for (unsigned long page = 0; page < PAGES; page += 5)
		write_page(PARENT, page);
	tree_ready_and_wait(CHILDREN);
	for (int i = 0; i < 4; i++)
		tree_join(children[i]);
	for (unsigned long page = 0; page < PAGES; page++)
		check_page(page % 5 ? 0 : PARENT, page);
	check_others();
	take_all(PARENT);
	return check_pass();
}
