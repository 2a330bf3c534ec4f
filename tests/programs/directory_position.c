// A directory read half way is read on from there: every entry comes exactly once.
#include "check.h"
#include <dirent.h>
#include <sys/stat.h>

#define ENTRIES 300

static int seen[ENTRIES];

/* One small buffer of entries; how many there were. */
static int read_some(int fd)
{
	char buffer[512];
	ssize_t size_bytes = MUST(getdents64(fd, buffer, sizeof(buffer)));
	int entries = 0, number;

	for (ssize_t at = 0; at < size_bytes; entries++) {
		struct dirent64 *entry = (struct dirent64 *)(buffer + at);

		if (sscanf(entry->d_name, "entry-%d", &number) == 1)
			seen[number]++;
		at += entry->d_reclen;
	}
	return entries;
}

int main(int argc, char **argv)
{
	int fd, entries = 0;
	char name[32];

	check_init(argc, argv);
	MUST(mkdir(in_dir("many"), 0755));
	fd = MUST(open(in_dir("many"), O_RDONLY | O_DIRECTORY));
	for (int i = 0; i < ENTRIES; i++) {
		snprintf(name, sizeof(name), "entry-%d", i);
		MUST(mkdirat(fd, name, 0755));
	}
	while (entries < ENTRIES / 2)
		entries += read_some(fd);
	check_ready_and_wait();
	while (read_some(fd))
		;
	for (int i = 0; i < ENTRIES; i++)
		if (seen[i] != 1)
			check_fail("entry-%d came %d times", i, seen[i]);
	MUST(mkdirat(fd, "new", 0755));
	return check_pass();
}
