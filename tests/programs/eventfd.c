// Event counters keep value, semaphore mode and flags; zero, small and the largest.
#include "check.h"
#include <sys/eventfd.h>

#define LARGEST 0xfffffffffffffffeUL

int main(int argc, char **argv)
{
	int zero, small, semaphore, largest;
	eventfd_t value;

	check_init(argc, argv);
	zero = MUST(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
	small = MUST(eventfd(41, 0));
	semaphore = MUST(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK));
	largest = MUST(eventfd(0, 0));
	MUST(eventfd_write(small, 1));
	MUST(eventfd_write(largest, LARGEST));
	check_ready_and_wait();
	EQUAL(eventfd_read(zero, &value), -1);
	EQUAL(errno, EAGAIN);
	EQUAL(fcntl(zero, F_GETFD), FD_CLOEXEC);
	EQUAL(fcntl(small, F_GETFL), O_RDWR);
	MUST(eventfd_read(small, &value));
	EQUAL(value, 42);
	for (int i = 0; i < 3; i++) {
		MUST(eventfd_read(semaphore, &value));
		EQUAL(value, 1);
	}
	EQUAL(eventfd_read(semaphore, &value), -1);
	MUST(eventfd_read(largest, &value));
	EQUAL(value, LARGEST);
	MUST(eventfd_write(zero, 5));
	MUST(eventfd_read(zero, &value));
	EQUAL(value, 5);
	return check_pass();
}
