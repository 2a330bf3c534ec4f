// What the kernel knows of the layout (code, data, heap start, stack, arguments, environment) is unchanged.
#include "snapshot.h"

static const int fields[] = {26, 27, 28, 45, 46, 47, 48, 49, 50, 51}; /* of proc_pid_stat(5), from 1 */

static void layout_read(unsigned long *layout)
{
	struct snapshot *stat = snapshot_take("/proc/self/stat");
	char *word = strrchr(stat->text, ')') + 2, *rest = NULL;

	for (int field = 3, i = 0; i < 10; field++) {
		char *text = strtok_r(field == 3 ? word : NULL, " \n", &rest);

		if (field == fields[i])
			layout[i++] = strtoul(text, NULL, 10);
	}
	free(stat);
}

int main(int argc, char **argv)
{
	unsigned long before[10] = {}, after[10] = {};

	check_init(argc, argv);
	layout_read(before);
	CHECK(before[0] && before[2]);
	check_ready_and_wait();
	layout_read(after);
	for (int i = 0; i < 10; i++)
		if (after[i] != before[i])
			check_fail("field %d of stat is %#lx, was %#lx", fields[i], after[i], before[i]);
	return check_pass();
}
