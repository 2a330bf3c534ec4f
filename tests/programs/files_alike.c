// Many eventfds, pipes, timerfds and memfds keep what each has of its own, though most of them are alike.
#include "check.h"

#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#define COUNT 50 /* of each kind */
#define HOUR 3600
#define MODE 0640

static int events[COUNT], pipes[COUNT][2], timers[COUNT], memories[COUNT];

static void make(int index)
{
	const struct itimerspec hour = {.it_value = {.tv_sec = HOUR}};

	events[index] = MUST(eventfd(index % 3 ? 0 : index, index % 5 ? 0 : EFD_NONBLOCK));
	MUST(pipe2(pipes[index], index % 4 ? 0 : O_NONBLOCK));
	if (index % 6 == 0)
		EQUAL(MUST(write(pipes[index][1], &index, sizeof(index))), sizeof(index));
	timers[index] = MUST(timerfd_create(CLOCK_MONOTONIC, index % 5 ? 0 : TFD_CLOEXEC));
	if (index % 7 == 0)
		MUST(timerfd_settime(timers[index], 0, &hour, NULL));
	memories[index] = MUST(memfd_create("alike", MFD_ALLOW_SEALING));
	MUST(ftruncate(memories[index], index % 3 ? 100 : 100 + index));
	MUST(lseek(memories[index], index % 8 ? 0 : index, SEEK_SET));
	if (index % 9 == 0)
		MUST(fcntl(memories[index], F_ADD_SEALS, F_SEAL_GROW));
	if (index % 11 == 0)
		MUST(fchmod(memories[index], MODE));
}

static void check_event(int index)
{
	uint64_t count = 0;

	EQUAL(!!(MUST(fcntl(events[index], F_GETFL)) & O_NONBLOCK), index % 5 == 0);
	MUST(fcntl(events[index], F_SETFL, O_NONBLOCK));
	if (index % 3 || !index)
		CHECK(read(events[index], &count, sizeof(count)) < 0 && errno == EAGAIN);
	else
		EQUAL(MUST(read(events[index], &count, sizeof(count))), sizeof(count));
	EQUAL(count, index % 3 ? 0 : index);
}

static void check_pipe(int index)
{
	int waiting = -1, found = index;

	EQUAL(!!(MUST(fcntl(pipes[index][0], F_GETFL)) & O_NONBLOCK), index % 4 == 0);
	MUST(ioctl(pipes[index][0], FIONREAD, &waiting));
	EQUAL(waiting, index % 6 ? 0 : sizeof(int));
	if (waiting)
		EQUAL(MUST(read(pipes[index][0], &found, sizeof(found))), sizeof(found));
	EQUAL(found, index);
}

static void check_timer(int index)
{
	struct itimerspec left = {0};

	EQUAL(MUST(fcntl(timers[index], F_GETFD)), index % 5 ? 0 : FD_CLOEXEC);
	MUST(timerfd_gettime(timers[index], &left));
	CHECK(index % 7 ? !left.it_value.tv_sec && !left.it_value.tv_nsec
			: left.it_value.tv_sec > 0 && left.it_value.tv_sec <= HOUR);
}

static void check_memory(int index)
{
	struct stat found = {0};

	MUST(fstat(memories[index], &found));
	EQUAL(found.st_size, index % 3 ? 100 : 100 + index);
	EQUAL(MUST(lseek(memories[index], 0, SEEK_CUR)), index % 8 ? 0 : index);
	EQUAL(MUST(fcntl(memories[index], F_GET_SEALS)), index % 9 ? 0 : F_SEAL_GROW);
	CHECK(index % 11 ? (found.st_mode & 0777) != MODE : (found.st_mode & 0777) == MODE);
}

int main(int argc, char **argv)
{
	check_init(argc, argv);
	for (int index = 0; index < COUNT; index++)
		make(index);
	check_ready_and_wait();
	for (int index = 0; index < COUNT; index++) {
		check_event(index);
		check_pipe(index);
		check_timer(index);
		check_memory(index);
	}
	return check_pass();
}
