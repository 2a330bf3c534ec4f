/* What cores.c offers to Python: core images of many threads that differ in little. */

/* Where in the answers of a thread something lies. */
struct mg_range {
	unsigned int start;
	unsigned int end;
};

/* Threads as everything tells of them; every array begins with the same thread. */
struct mg_crowd {
	int count;
	unsigned int answers_size; /* of each */
	unsigned int xstate_most;  /* bytes of an xsave area that are kept */
	const struct mg_thread *threads;
	const struct mg_facts *facts;
	const unsigned char *answers; /* what each one's program brought back */
	const unsigned char *texts;   /* /proc/PID/task/TID/status, one behind the other */
	const unsigned int *text_sizes;
	const struct mg_range *common; /* answers that most have alike */
	unsigned int common_count;
	unsigned int keyring; /* places of answers: a result, an address, a stack_t */
	unsigned int clear_child_tid;
	unsigned int stack;
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
int mg_sort_crowd(const struct mg_crowd *crowd, struct mg_member *members, int *firsts, int most);

/* CoreEntry of every thread that is in a group, at spans[] of `buffer`; spans[].size is 0 for others. Returns how many
 * bytes that took, -ENOSPC when there is no room. */
long long mg_encode_crowd(const struct mg_crowd *crowd, const struct mg_member *members, const struct mg_alike *groups,
			  unsigned char *buffer, long long room, struct mg_slice *spans);
