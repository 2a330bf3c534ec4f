/* What collect.c offers to Python: many small readings in one call. */

/* What is told of each stopped thread; facts[i].tid is set by the caller. Returns how many failed. */
int mg_read_facts(struct mg_facts *facts, int count);

/* The contents of `count` files (with `links`: where symbolic links lead) one
 * behind the other in `buffer`; `names`: paths, each with its NUL. Stops when
 * there is no room for another MG_FILE_ROOM bytes. Returns how many were read. */
#define MG_FILE_ROOM 65536
int mg_read_files(const char *names, int count, int links, unsigned char *buffer, long long room,
		  struct mg_slice *spans);

/* Which of the processes share an object of kcmp(2)'s `kind`: same[i] is the
 * index of the first in pids[] that has the same one as pids[i]. `comparisons`
 * counts the kcmp calls. -EOPNOTSUPP: this kernel does not tell an order. */
int mg_find_shared(const int *pids, const int *fds, int count, int kind, int *same, long long *comparisons);
