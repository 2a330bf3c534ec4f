/* What collect.c offers to Python: many small readings in one call. */

/* What is told of each stopped thread, into cleared `facts`. Returns how many failed. */
int mg_read_facts(const int *tids, int count, struct mg_facts *facts);

#define MG_LIMITS 16

/* The resource limits of a process in the kernel's order, soft and hard of each. 0 or -errno. */
int mg_read_limits(int pid, unsigned long long *limits);

/* The contents of `count` files, or where symbolic links lead, or the names
 * in directories (each with its NUL), in `buffer`; `names`: paths, each with
 * its NUL. Many are read by several threads, each with its part of `buffer`;
 * -MG_NO_ROOM in place of a size: its part had no MG_FILE_ROOM bytes left. The
 * first is always read when there is that much room in all. */
enum { MG_FILE, MG_LINK, MG_NAMES };
#define MG_FILE_ROOM 65536
#define MG_NO_ROOM 4096 /* no errno */
void mg_read_files(const char *names, int count, int kind, unsigned char *buffer, long long room,
		   struct mg_slice *spans);

/* Which of the processes share an object of kcmp(2)'s `kind`: same[i] is the
 * index of the first in pids[] that has the same one as pids[i]. `groups`: known
 * to differ where these do, ascending; NULL: one group. `sorted`: their indexes in an order that
 * is tried first, and then in the kernel's, within the groups; when that is the same one
 * comparison each is enough. `comparisons` counts the kcmp calls. -EOPNOTSUPP: this kernel does not tell an order. */
int mg_find_shared(const int *pids, const int *fds, const int *groups, int count, int kind, int *same, int *sorted,
		   long long *comparisons);
