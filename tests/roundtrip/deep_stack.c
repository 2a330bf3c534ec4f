/* Recurses deeper at SIGUSR1, and back at the next, checking every frame: exit 1 when one was overwritten. */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define FRAME (16 * 1024)
#define DEPTH 64

static sigset_t told;
static const char *path;

static void wait_told(const char *name)
{
	int number;

	if (chdir(path) || open(name, O_CREAT | O_WRONLY, 0600) < 0)
		_exit(2);
	sigwait(&told, &number);
}

__attribute__((noinline)) static int descend(int level)
{
	volatile char frame[FRAME];
	int bad = 0;

	for (int i = 0; i < FRAME; i++)
		frame[i] = (char)level;
	if (level < DEPTH)
		bad = descend(level + 1);
	else
		wait_told("deep");
	for (int i = 0; i < FRAME; i++)
		bad |= frame[i] != (char)level;
	return bad;
}

int main(int argc, char **argv)
{
	path = argv[argc - 1];
	sigemptyset(&told);
	sigaddset(&told, SIGUSR1);
	sigprocmask(SIG_BLOCK, &told, NULL);
	wait_told("ready");
	return descend(0);
}
