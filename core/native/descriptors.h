/* What descriptors.c offers to Python: everything that is cheap to learn of many descriptors, in one call. */

/* One socket option to ask for: of sockets of `domain` and, unless it is 0, `protocol`. `shows`: sockets that are alike
 * give the same answer. */
struct mg_option {
	int domain, protocol, level, option, size, shows;
};

/* One descriptor. Behind it lie, each beginning at a multiple of 8: the link, the text of
 * fdinfo, and of a socket the answers: getsockname, getpeername, then the options,
 * each an int (length, or -errno) and a value at the next multiple of 4. */
struct mg_sight {
	int size;  /* with all that lies behind it */
	int error; /* errno; the rest is void then */
	int link_size, info_size, answers_size;
	int owner_type, owner_pid; /* F_GETOWN_EX; 0: nobody, or O_PATH */
	unsigned int mode, uid, gid;
	unsigned long long device, inode, links, device_kind, file_size;
	unsigned long long path_device, path_inode; /* where the link leads from `root`; 0: nowhere */
	long long filesystem, block_size;	    /* of a regular file: statfs(2) */
	int domain, type, protocol;		    /* of a socket */
	int events;				    /* of a pipe or a socket: poll(2) */
	int waiting, capacity;			    /* of a pipe: FIONREAD, F_GETPIPE_SZ */
	int filter;				    /* of a socket: SO_GET_FILTER: its length or -errno */
	int urgent;				    /* of a stream of AF_UNIX: a byte of MSG_OOB waits */
	int seals;				    /* of a regular file without a name: F_GET_SEALS, or -errno */
	int option_memory;			    /* of UDP: bytes of filters and groups, or below 0: not told */
};

/* What is known of descriptors before they are looked at, by index. Without `places`, `texts`, `kinds` or `fact_places`
 * nothing is. */
struct mg_hints {
	const unsigned char *known;
	const long long *places; /* where in `known` an earlier record lies, or below 0 */
	const int *texts;	 /* ours of its file in fdinfo, of whatever has that number now, or below 0 */
	const int *kinds;	 /* what sockets have which are alike, below MG_MOST_KINDS, or below 0 */
	const struct mg_file_facts *facts;
	const int *fact_places; /* which of these are of it, now and until it is looked at, or below 0 */
	struct mg_operations operations;
};

/* Look at the descriptors fds[first] and those behind it, `count` of them, of the process `pid` (of `pidfd`): spans[i]
 * says where in `buffer`, which holds `count` times MG_SIGHT_ROOM, the record of each lies; its size is 0 when it is
 * the earlier one still. Options that show are asked of one of each kind of sockets. A duplicate of ours is held for
 * each in turn, unless facts tell all. More than MG_SIGHT_ROOM bytes of one: EFBIG. -errno: the process cannot be
 * looked at. */
#define MG_SIGHT_ROOM 16384
int mg_look_at_descriptors(int pid, int pidfd, const int *fds, int first, int count, const struct mg_option *options,
			   int option_count, const struct mg_hints *hints, unsigned char *buffer,
			   struct mg_slice *spans);

/* What of an earlier record of a descriptor is right by what the kernel has of it now, as MG_HOLDS_ flags: the text of
 * fdinfo and that nobody owns it; what fstat(2) tells; the whole of it. Flags that are not there: who knows. */
#define MG_HOLDS_TEXT 1
#define MG_HOLDS_INODE 2
#define MG_HOLDS_ALL 4
int mg_what_holds(const struct mg_sight *known, const struct mg_file_facts *facts,
		  const struct mg_operations *operations);

/* found[i]: whether `wanted` is in the first MG_SEARCHED bytes of the file that texts[i] of ours is. */
#define MG_SEARCHED 4096
void mg_search_texts(const int *texts, int count, const char *wanted, unsigned char *found);
