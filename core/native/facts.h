/* What facts.c offers: which descriptors are as an earlier record tells, without asking about each. */

/* What the kernel has of a descriptor, as core/kernel/file_facts.py has read it. From `head` on: of the kinds of file
 * that have such, and void of others. */
struct mg_file_facts {
	int fd;
	unsigned int flags;
	unsigned long long cloexec; /* the word of the descriptor table that its bit is in */
	long long position;
	unsigned long long operations, owner, locks; /* addresses, or 0 */
	long long size;
	unsigned long long inode, magic;
	unsigned int mode, uid, gid, links;
	unsigned int device; /* as the kernel has it */
	int mount;
	unsigned int head, tail, room, readers, writers; /* of a pipe; room in pages */
	unsigned int seals;				 /* of a file of tmpfs */
	int in_flight;					 /* descriptors that wait in a socket of AF_UNIX */
	int event;					 /* the number of an eventfd */
	unsigned long long count;			 /* and what it counts */
	unsigned long long expires, interval, ticks;	 /* of a timerfd */
	int clock;
	unsigned short expired, settime_flags;
};

/* How eventfds and timerfds are told from other files: their `operations`. */
struct mg_operations {
	unsigned long long events, timers;
};

/* places[i]: which of the `count` facts, by ascending descriptor, are those of fds[i], ascending too; below 0: none. */
void mg_find_facts(const struct mg_file_facts *facts, int count, const int *fds, int fd_count, int *places);

/* Descriptors of timerfds that were never armed since they last expired and were read, or were disarmed: not one of
 * them is due. Returns how many there are, in `fds`, which has room for `count`. */
int mg_find_unset_timers(const struct mg_file_facts *facts, int count, const struct mg_operations *operations,
			 int *fds);
