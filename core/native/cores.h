/* What cores.c offers to Python: core images of many threads that differ in little. */

/* Where in the answers of a thread something lies. */
struct mg_range {
	unsigned int start;
	unsigned int end;
};

/* Threads, and what each one alone has said; every array begins with the same thread. */
struct mg_crowd {
	int count;
	unsigned int answers_size;    /* of each */
	unsigned int xstate_most;     /* bytes of an xsave area that are kept */
	unsigned int clear_child_tid; /* places of answers: an address, a stack_t */
	unsigned int stack;
	const struct mg_thread *threads;
	const unsigned char *answers;
};

/* What everything else tells of them, where every one was asked. */
struct mg_told {
	const struct mg_facts *facts;
	const unsigned char *texts; /* /proc/PID/task/TID/status, one behind the other */
	const unsigned int *text_sizes;
	const struct mg_range *common; /* answers that most have alike */
	unsigned int common_count;
	unsigned int keyring; /* place of a result */
};

/* What the kernel has of a thread: core/kernel/thread_records.py. */
struct mg_record {
	int tid; /* as we see it */
	int own_tid;
	int level; /* of its PID namespace */
	int unused;
	unsigned long long clear_child_tid;
	unsigned long long stack; /* a stack_t from here on */
	unsigned int stack_flags;
	unsigned int pad;
	unsigned long long stack_size;
	char comm[16];
	unsigned long long special[3]; /* 0 of an ordinary thread */
	int policy;		       /* what most have alike from here on */
	unsigned int scheduled[3];
};

#define MG_COMM_MAX 64
#define MG_CORE_ROOM 1024 /* for all of an image but its xstate and what it has in common with others */

/* `group`: the number of those that have in common what mg_sort_crowd() compares; < 0: left to the caller. */
struct mg_member {
	int group;
	unsigned int comm_size;
	const char *comm;
};

/* What the threads of a group have in common, encoded, as it lies between what each one has of its own. */
struct mg_alike {
	struct mg_slice pieces[5]; /* places in `bytes` */
	const unsigned char *bytes;
};

/* Which threads have rights, scheduling and common answers alike: members[], and in firsts[] one of each group, of
 * which there are at most `most`. Left to the caller: who is in none of these, has signals pending or a seccomp
 * mode, cannot be carried, or has a status that is not as expected. Returns how many groups there are. */
int mg_sort_crowd(const struct mg_crowd *crowd, const struct mg_told *told, struct mg_member *members, int *firsts,
		  int most);

/* The same by what the kernel has of them: `answers` are struct mg_record, each answers_size long. */
int mg_sort_records(const struct mg_crowd *crowd, struct mg_member *members, int *firsts, int most);

/* CoreEntry of every thread that is in a group, at spans[] of `buffer`, which has `room` bytes for each; spans[].size
 * is 0 for others. -ENOSPC: that is not enough. */
int mg_encode_crowd(const struct mg_crowd *crowd, const struct mg_member *members, const struct mg_alike *groups,
		    unsigned char *buffer, long long room, struct mg_slice *spans);
