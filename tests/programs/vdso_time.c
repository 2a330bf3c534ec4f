// Clocks read all the time never run backwards, whichever function is asked.
// tags: live
#include "check.h"
#include <sched.h>
#include <sys/time.h>

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW};
static _Atomic bool stop;

static long long now_ns(clockid_t id)
{
	struct timespec now;

	MUST(clock_gettime(id, &now));
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void *read_until_stop(void *unused)
{
	long long last[4] = {}, now;
	struct timeval wall;
	unsigned int cpu;

	while (!stop) {
		for (int i = 0; i < 4; i++) {
			now = now_ns(clocks[i]);
			if (now < last[i])
				check_fail("clock %d went from %lld to %lld ns", clocks[i], last[i], now);
			last[i] = now;
		}
		MUST(gettimeofday(&wall, NULL));
		CHECK(llabs(wall.tv_sec - (long long)time(NULL)) <= 1);
		MUST(getcpu(&cpu, NULL));
	}
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;

	check_init(argc, argv);
	thread = thread_start(read_until_stop, NULL);
	check_ready_and_wait();
	stop = true;
	thread_join(thread);
	return check_pass();
}
