// CLOCK_MONOTONIC and CLOCK_BOOTTIME never go back; what they show at the end is told in DIR/clock.
#include "check.h"
#include <sys/syscall.h>

#define BILLION 1000000000LL

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW};

static long long read_clock(clockid_t clock, bool by_syscall)
{
	struct timespec now;

	if (by_syscall)
		MUST(syscall(SYS_clock_gettime, clock, &now));
	else
		MUST(clock_gettime(clock, &now));
	return now.tv_sec * BILLION + now.tv_nsec;
}

int main(int argc, char **argv)
{
	long long before[4], slept;
	char text[32];

	check_init(argc, argv);
	for (int i = 0; i < 4; i++)
		before[i] = read_clock(clocks[i], i % 2);
	check_ready_and_wait();
	for (int i = 0; i < 4; i++) {
		CHECK(read_clock(clocks[i], true) >= before[i]);
		CHECK(read_clock(clocks[i], false) >= before[i]);
	}
	slept = read_clock(CLOCK_MONOTONIC, false);
	check_nap();
	CHECK(read_clock(CLOCK_MONOTONIC, true) - slept < 20 * BILLION);
	snprintf(text, sizeof(text), "%lld", read_clock(CLOCK_MONOTONIC, false));
	check_publish("clock", text);
	return check_pass();
}
