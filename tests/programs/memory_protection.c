// No-access, read-only, writable and executable pages keep both contents and protection.
#include "pattern.h"
#include <sys/mman.h>

static const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC,
				  PROT_READ | PROT_WRITE | PROT_EXEC};
static const unsigned char return_42[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */

/* The kernel is asked, by a copy through a pipe, so that no access faults. */
static void check_access(char *page, int protection)
{
	bool readable, writable;
	int fds[2];

	MUST(pipe(fds));
	readable = write(fds[1], page, 1) == 1;
	if (!readable)
		EQUAL(write(fds[1], "", 1), 1);
	writable = read(fds[0], page, 1) == 1;
	EQUAL(readable, !!(protection & PROT_READ));
	EQUAL(writable, !!(protection & PROT_WRITE));
	MUST(close(fds[0]));
	MUST(close(fds[1]));
}

int main(int argc, char **argv)
{
	char *pages;

	check_init(argc, argv);
	pages = MUST(mmap(NULL, 5 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	for (int i = 0; i < 5; i++) {
		pattern_fill(pages + i * PAGE, PAGE, i);
		memcpy(pages + i * PAGE, return_42, sizeof(return_42));
		MUST(mprotect(pages + i * PAGE, PAGE, protections[i]));
	}
	check_ready_and_wait();
	for (int i = 0; i < 5; i++) {
		check_access(pages + i * PAGE, protections[i]);
		if (protections[i] & PROT_EXEC)
			EQUAL(((int (*)(void))(pages + i * PAGE))(), 42);
		MUST(mprotect(pages + i * PAGE, PAGE, PROT_READ));
		pattern_check(pages + i * PAGE + 64, PAGE - 64, i + 64 / sizeof(uint64_t));
		CHECK(memcmp(pages + i * PAGE, return_42, sizeof(return_42)) == 0);
	}
	return check_pass();
}
