// Locks of every kind are held again: POSIX ranges, flock, OFD, leases; others are kept out and let in as before.
// dump: --file-locks
#include "check.h"

#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

static int make(const char *name)
{
	int fd = MUST(open(in_dir(name), O_RDWR | O_CREAT | O_CLOEXEC, 0600));

	EQUAL(ftruncate(fd, 1000), 0);
	return fd;
}

static void lock(int fd, int command, short type, off_t start, off_t length)
{
	struct flock wanted = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};

	MUST(fcntl(fd, command, &wanted));
}

/* Whether somebody else could lock it; asked with an open file of its own. */
static int is_free(const char *name, short type, off_t start, off_t length)
{
	struct flock wanted = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
	int fd = MUST(open(in_dir(name), O_RDWR | O_CLOEXEC)), answer = fcntl(fd, F_OFD_SETLK, &wanted);

	MUST(close(fd));
	return answer == 0;
}

int main(int argc, char **argv)
{
	check_init(argc, argv);
	int whole = make("flock"), shared = make("flock_shared"), ofd = make("ofd"), lease = make("lease");

	MUST(flock(whole, LOCK_EX));
	MUST(flock(shared, LOCK_SH));
	int copy = MUST(dup(whole));
	lock(ofd, F_OFD_SETLK, F_WRLCK, 10, 20);
	lock(ofd, F_OFD_SETLK, F_RDLCK, 100, 0);
	MUST(close(lease));
	lease = MUST(open(in_dir("lease"), O_RDONLY | O_CLOEXEC));
	MUST(fcntl(lease, F_SETLEASE, F_RDLCK));
	int posix = make("posix"), reader = MUST(open(in_dir("posix"), O_RDONLY | O_CLOEXEC));
	lock(posix, F_SETLK, F_WRLCK, 0, 5);
	lock(reader, F_SETLK, F_RDLCK, 50, 10);

	check_ready_and_wait();

	int other = MUST(open(in_dir("flock"), O_RDWR | O_CLOEXEC));
	EQUAL(flock(other, LOCK_EX | LOCK_NB), -1);
	MUST(flock(copy, LOCK_UN)); /* the very same open file */
	MUST(flock(other, LOCK_EX | LOCK_NB));
	other = MUST(open(in_dir("flock_shared"), O_RDWR | O_CLOEXEC));
	EQUAL(flock(other, LOCK_EX | LOCK_NB), -1);
	MUST(flock(other, LOCK_SH | LOCK_NB));

	EQUAL(is_free("ofd", F_RDLCK, 10, 20), 0);
	EQUAL(is_free("ofd", F_WRLCK, 30, 20), 1);
	EQUAL(is_free("ofd", F_RDLCK, 500, 1), 1);
	EQUAL(is_free("ofd", F_WRLCK, 5000, 1), 0);

	EQUAL(fcntl(lease, F_GETLEASE), F_RDLCK);

	pid_t child = MUST(fork()); /* POSIX locks are not inherited, and our own are never in our way */
	if (!child)
		_exit(is_free("posix", F_RDLCK, 0, 5) | is_free("posix", F_WRLCK, 50, 10) << 1 |
		      is_free("posix", F_RDLCK, 50, 10) << 2 | is_free("posix", F_WRLCK, 5, 45) << 3);
	int status;
	EQUAL(waitpid(child, &status, 0), child);
	EQUAL(status, 12 << 8);
	MUST(close(reader)); /* drops all of them */
	EQUAL(is_free("posix", F_WRLCK, 0, 0), 1);
	return check_pass();
}
