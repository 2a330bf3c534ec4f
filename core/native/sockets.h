/* What sockets.c offers to Python: which sockets of a process the kernel has alike. */

/* What core/kernel/socket_records.py has read of a socket; what is compared lies behind it. */
struct mg_socket_record {
	int fd;
	int unused;
	long long holders; /* how many have its open file, as the kernel counts them */
};

/* kinds[i]: which others of `fds`, ascending, the socket fds[i] is alike: a number below MG_MOST_KINDS, or -1 of what
 * is no socket, has other holders than `alone`, or is of one kind too many. `records`, ascending too, are `size` bytes
 * each.
 */
#define MG_MOST_KINDS 64
void mg_sort_sockets(const unsigned char *records, int record_count, int size, long long alone, const int *fds,
		     int count, int *kinds);
