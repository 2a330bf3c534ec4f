// Children that wait for locks of their parent (F_SETLKW, flock) wait on, and get them when it gives them up.
// dump: --file-locks
#include "check.h"

#include <sys/file.h>
#include <sys/wait.h>

static int lines_waiting(void)
{
	FILE *locks = fopen("/proc/locks", "r");
	char line[256];
	int found = 0;

	CHECK(locks);
	while (fgets(line, sizeof(line), locks))
		found += strstr(line, "->") != NULL;
	fclose(locks);
	return found;
}

static pid_t waiting(int (*take)(void))
{
	int before = lines_waiting();
	pid_t pid = MUST(fork());

	if (!pid)
		_exit(take() ? 1 : 0);
	while (lines_waiting() == before)
		check_nap();
	return pid;
}

static int record = -1, whole = -1;
static struct flock wanted = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 5};

static int take_record(void)
{
	return fcntl(record, F_SETLKW, &wanted);
}

static int take_whole(void)
{
	MUST(close(whole)); /* the lock is the parent's alone */
	return flock(MUST(open(in_dir("whole"), O_RDWR | O_CLOEXEC)), LOCK_EX);
}

static void check_ends(pid_t pid)
{
	int status;

	EQUAL(waitpid(pid, &status, 0), pid);
	EQUAL(status, 0);
}

int main(int argc, char **argv)
{
	pid_t of_record, of_whole;
	int status;

	check_init(argc, argv);
	record = MUST(open(in_dir("record"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	whole = MUST(open(in_dir("whole"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	MUST(fcntl(record, F_SETLK, &wanted));
	MUST(flock(whole, LOCK_EX));
	of_record = waiting(take_record);
	of_whole = waiting(take_whole);
	check_ready_and_wait();
	EQUAL(waitpid(-1, &status, WNOHANG), 0);
	wanted.l_type = F_UNLCK;
	MUST(fcntl(record, F_SETLK, &wanted));
	MUST(close(whole));
	check_ends(of_record);
	check_ends(of_whole);
	return check_pass();
}
