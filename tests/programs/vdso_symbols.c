// Functions found in the vDSO's own symbol table, whichever kernel it is from, tell a time that never runs back.
// tags: live
#include "check.h"
#include <elf.h>
#include <sched.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>

static const clockid_t clocks[] = {CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, CLOCK_MONOTONIC_COARSE};
static _Atomic long stop, rounds;

/* Pointers of the dynamic section are offsets: nobody has relocated them. */
static const void *part(const char *image, Elf64_Sxword tag)
{
	const Elf64_Phdr *segment = (const void *)(image + ((const Elf64_Ehdr *)image)->e_phoff);
	const Elf64_Dyn *entry;

	while (segment->p_type != PT_DYNAMIC)
		segment++;
	for (entry = (const void *)(image + segment->p_offset); entry->d_tag != tag; entry++)
		CHECK(entry->d_tag != DT_NULL);
	return image + entry->d_un.d_ptr;
}

/* Strings begin where the symbols end. */
static void *find(const char *name)
{
	const char *image = (const char *)getauxval(AT_SYSINFO_EHDR), *strings = part(image, DT_STRTAB);
	const Elf64_Sym *symbol = part(image, DT_SYMTAB);

	for (; (const char *)symbol < strings; symbol++)
		if (symbol->st_shndx != SHN_UNDEF && !strcmp(strings + symbol->st_name, name))
			return (void *)(image + symbol->st_value);
	check_fail("the vDSO has no %s", name);
}

/* The vDSO's answer lies between the kernel's before and after. */
static void check_clock(clockid_t id, long long *last)
{
	int (*read_clock)(clockid_t, struct timespec *) = find("__vdso_clock_gettime");
	struct timespec at[3];
	long long ns[3];

	MUST(syscall(SYS_clock_gettime, id, &at[0]));
	EQUAL(read_clock(id, &at[1]), 0);
	MUST(syscall(SYS_clock_gettime, id, &at[2]));
	for (int i = 0; i < 3; i++)
		ns[i] = at[i].tv_sec * 1000000000LL + at[i].tv_nsec;
	if (ns[1] < ns[0] || ns[1] > ns[2] || ns[1] < *last)
		check_fail("clock %d: %lld, then %lld, kernel %lld to %lld", id, *last, ns[1], ns[0], ns[2]);
	*last = ns[1];
}

static void check_others(void)
{
	int (*read_wall)(struct timeval *, void *) = find("__vdso_gettimeofday");
	time_t (*read_time)(time_t *) = find("__vdso_time");
	int (*read_cpu)(unsigned int *, void *, void *) = find("__vdso_getcpu");
	time_t before = syscall(SYS_time, NULL), now = read_time(NULL);
	unsigned int cpu = -1;
	struct timeval wall;

	EQUAL(read_wall(&wall, NULL), 0);
	CHECK(llabs(now - before) < 60 && llabs(wall.tv_sec - before) < 60); /* hosts differ a little */
	EQUAL(read_cpu(&cpu, NULL, NULL), 0);
	CHECK(cpu < CPU_SETSIZE);
}

static void *read_until_stop(void *unused)
{
	long long last[4] = {};

	for (; !stop; rounds++) {
		for (int i = 0; i < 4; i++)
			check_clock(clocks[i], &last[i]);
		check_others();
	}
	return unused;
}

int main(int argc, char **argv)
{
	unsigned long image = getauxval(AT_SYSINFO_EHDR);
	pthread_t thread;
	long before;

	check_init(argc, argv);
	/* Parked, nobody holds an address inside the vDSO: a test may put another there. */
	for (check_ready(); argc > 2 && access(argv[2], F_OK) == 0;)
		check_nap();
	thread = thread_start(read_until_stop, NULL);
	check_wait();
	EQUAL(getauxval(AT_SYSINFO_EHDR), image);
	for (before = rounds; rounds < before + 100;)
		sched_yield();
	stop = true;
	EQUAL(pthread_join(thread, NULL), 0); /* thread_join asks libc for the time */
	return check_pass();
}
