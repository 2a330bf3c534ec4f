// The current directory, a nested one, is kept and relative paths work from it.
#include "check.h"
#include <sys/stat.h>

int main(int argc, char **argv)
{
	char before[PATH_MAX], after[PATH_MAX];

	check_init(argc, argv);
	MUST(chdir(check_dir));
	MUST(mkdir("outer", 0755));
	MUST(mkdir("outer/in ner", 0755));
	MUST(chdir("outer/in ner"));
	CHECK(getcwd(before, sizeof(before)));
	check_ready_and_wait();
	CHECK(getcwd(after, sizeof(after)));
	CHECK(strcmp(after, before) == 0);
	MUST(open("relative", O_WRONLY | O_CREAT | O_EXCL, 0644));
	MUST(access(in_dir("outer/in ner/relative"), F_OK));
	return check_pass();
}
