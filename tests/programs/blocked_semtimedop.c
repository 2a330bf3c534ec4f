// semtimedop(2), which any stop would end with EINTR, is ended only when the semaphore is raised.
// later: SysV semaphores
#include "blocked.h"
#include <sys/sem.h>

static int semaphores;

static void remove_semaphores(void)
{
	semctl(semaphores, 0, IPC_RMID);
}

static void prepare(void)
{
	semaphores = MUST(semget(IPC_PRIVATE, 1, 0600));
	MUST(atexit(remove_semaphores));
	check_on_fail = remove_semaphores;
}

static long blocked_call(void)
{
	const struct timespec timeout = {.tv_sec = LONG_S};
	struct sembuf lower = {.sem_op = -1};

	return semtimedop(semaphores, &lower, 1, &timeout);
}

static void wake_up(void)
{
	struct sembuf raise_it = {.sem_op = 1};

	MUST(semop(semaphores, &raise_it, 1));
}

int main(int argc, char **argv)
{
	return run_blocked(argc, argv, SYS_semtimedop, 0);
}
