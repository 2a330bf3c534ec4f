/* Messages of a POSIX message queue, which the kernel lets nobody look at without taking them out. */
#ifndef MG_MQUEUE_H
#define MG_MQUEUE_H

/*
 * Copy every message in the queue behind fd (open for both directions,
 * non-blocking), whose messages have up to message_size bytes, and leave it as
 * it was. texts[room]: the messages back to back; room for one more than there
 * are bytes. Returns how many there are, at most `capacity`, with their sizes
 * and priorities, or -errno. *lost: how many could not be put back.
 *
 * A process of its own does it, which shares our memory and takes no signal: it
 * ends its work even when we are killed with -9 meanwhile.
 */
int mg_copy_queue(int fd, long message_size, char *texts, long room, unsigned int *sizes, unsigned int *priorities,
		  int capacity, int *lost);

#endif
