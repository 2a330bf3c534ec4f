// A deleted file that is written all the time arrives with what was written last, and with its holes.
// tags: live
#include "check.h"

#include <sys/stat.h>

#define RECORD 64
#define RECORDS 20000
#define FAR (32 << 20)

static void fill(char *record, long number)
{
	memset(record, 0, RECORD);
	snprintf(record, RECORD, "record %ld", number);
}

int main(int argc, char **argv)
{
	char record[RECORD], found[RECORD];
	long count = 0;

	check_init(argc, argv);
	int fd = MUST(open(in_dir("log"), O_RDWR | O_CREAT | O_EXCL, 0600));
	MUST(unlink(in_dir("log")));
	EQUAL(pwrite(fd, "far", 3, FAR), 3);
	check_ready();
	for (; !check_go(); count++) {
		fill(record, count);
		EQUAL(pwrite(fd, record, RECORD, count % RECORDS * RECORD), RECORD);
		if (count % 500 == 0)
			check_nap();
	}
	errno = 0;
	for (long number = count > RECORDS ? count - RECORDS : 0; number < count; number++) {
		fill(record, number);
		EQUAL(pread(fd, found, RECORD, number % RECORDS * RECORD), RECORD);
		CHECK(memcmp(record, found, RECORD) == 0);
	}
	EQUAL(pread(fd, found, RECORD, FAR), 3);
	CHECK(memcmp(found, "far", 3) == 0);
	struct stat now;
	MUST(fstat(fd, &now));
	EQUAL(now.st_nlink, 0);
	EQUAL(now.st_size, FAR + 3);
	return check_pass();
}
