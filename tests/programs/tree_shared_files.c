// Files that only this host has, one deleted and one named in /dev/shm, stay shared by parent and child throughout.
#include "shared.h"

static void *map_file(const char *path, size_t size)
{
	int fd = MUST(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640));
	void *memory;

	EQUAL(ftruncate(fd, size), 0);
	memory = MUST(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
	EQUAL(close(fd), 0);
	return memory;
}

int main(int argc, char **argv)
{
	struct shared_control *control;
	char named[64], deleted[64], *pages, *private;
	struct stat made, found;
	pid_t pid;
	int fd;

	tree_init(argc, argv);
	snprintf(named, sizeof(named), "/dev/shm/named.%d", getpid());
	snprintf(deleted, sizeof(deleted), "/dev/shm/deleted.%d", getpid());
	control = map_file(named, sizeof(*control));
	pages = map_file(deleted, SHARED_PAGES * PAGE);
	fd = MUST(open(deleted, O_RDWR | O_CLOEXEC));
	EQUAL(unlink(deleted), 0);
	private = MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
	private[PAGE - 1] = 'p';
	EQUAL(stat(named, &made), 0);
	pid = MUST(fork());
	if (pid == 0) {
		shared_write(control, pages);
		_exit(0);
	}
	shared_move(control);
	control->stop = 1;
	tree_join(pid);
	EQUAL(stat(named, &found), 0);
	EQUAL(found.st_size, made.st_size);
	EQUAL(found.st_mode, made.st_mode);
	EQUAL(private[PAGE - 1], 'p');
	pages[PAGE - 2] = 's'; // the descriptor leads to the same memory
	EQUAL(pread(fd, private, 2, PAGE - 2), 2);
	EQUAL(private[0], 's');
	EQUAL(access(deleted, F_OK), -1);
	EQUAL(errno, ENOENT);
	EQUAL(unlink(named), 0);
	return check_pass();
}
