// Memfds keep name, content, holes, seals, mode and position, mapped or not; private mappings of one keep their pages.
#include "pattern.h"
#include <sys/mman.h>
#include <sys/stat.h>

#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define FAR (1 << 24)

static const char *way_to(int fd)
{
	static char way[64];

	snprintf(way, sizeof(way), "/proc/self/fd/%d", fd);
	return way;
}

static void check_link(int fd, const char *wanted)
{
	char link[128] = "";

	MUST(readlink(way_to(fd), link, sizeof(link) - 1));
	if (strcmp(link, wanted))
		check_fail("descriptor %d is %s, not %s", fd, link, wanted);
	errno = 0;
}

int main(int argc, char **argv)
{
	struct stat made, found;
	int sealed, alone, again;
	char *readable, *private, word[8];

	check_init(argc, argv);
	sealed = MUST(memfd_create("sealed", MFD_ALLOW_SEALING));
	EQUAL(write(sealed, "sealed!", 8), 8);
	EQUAL(ftruncate(sealed, 3 * PAGE - 100), 0);
	readable = MUST(mmap(NULL, 3 * PAGE, PROT_READ, MAP_PRIVATE, sealed, 0));
	private = MUST(mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, sealed, 0));
	private[PAGE] = 'p';
	EQUAL(fcntl(sealed, F_ADD_SEALS, SEALS), 0);
	alone = MUST(memfd_create("with spaces (deleted)", 0));
	EQUAL(fchmod(alone, 0640), 0);
	EQUAL(pwrite(alone, "far", 4, FAR), 4);
	EQUAL(lseek(alone, 1234, SEEK_SET), 1234);
	EQUAL(fstat(alone, &made), 0);
	again = MUST(open(way_to(alone), O_RDONLY | O_CLOEXEC));

	check_ready_and_wait();
	check_link(sealed, "/memfd:sealed (deleted)");
	EQUAL(fcntl(sealed, F_GET_SEALS), SEALS);
	EQUAL(write(sealed, "x", 1), -1);
	EQUAL(errno, EPERM);
	EQUAL(lseek(sealed, 0, SEEK_END), 3 * PAGE - 100);
	CHECK(!strcmp(readable, "sealed!") && !strcmp(private, "sealed!"));
	EQUAL(private[PAGE], 'p');
	EQUAL(readable[PAGE], 0);
	check_link(alone, "/memfd:with spaces (deleted) (deleted)");
	EQUAL(lseek(alone, 0, SEEK_CUR), 1234);
	EQUAL(pread(again, word, 8, FAR), 4);
	CHECK(!strcmp(word, "far"));
	EQUAL(fcntl(again, F_GETFL) & O_ACCMODE, O_RDONLY);
	EQUAL(fstat(again, &found), 0);
	EQUAL(found.st_size, made.st_size);
	EQUAL(found.st_blocks, made.st_blocks);
	EQUAL(found.st_mode, made.st_mode);
	return check_pass();
}
