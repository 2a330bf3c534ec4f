// SPDX-License-Identifier: Apache-2.0
// Compares what the kernel has of sockets, for core/kernel/socket_records.py: no policy here.
#include <string.h>

#include "abi.h"
#include "sockets.h"

/* What is compared of a record. */
static const unsigned char *compared(const unsigned char *record)
{
	return record + sizeof(struct mg_socket_record);
}

void mg_sort_sockets(const unsigned char *records, int record_count, int size, long long alone, const int *fds,
		     int count, int *kinds)
{
	const unsigned char *firsts[MG_MOST_KINDS], *end = records + (size_t)record_count * size, *at = records;
	const size_t length = size - sizeof(struct mg_socket_record);
	int found = 0, kind = 0;

	for (int i = 0; i < count; i++) {
		struct mg_socket_record head = {.fd = -1};

		kinds[i] = -1;
		for (; at < end; at += size) {
			memcpy(&head, at, sizeof(head));
			if (head.fd >= fds[i])
				break;
		}
		if (at >= end || head.fd != fds[i] || head.holders != alone)
			continue;
		for (int tried = 0; tried < found; tried++, kind = (kind + 1) % found)
			if (!memcmp(compared(at), compared(firsts[kind]), length)) {
				kinds[i] = kind;
				break;
			}
		if (kinds[i] >= 0 || found == MG_MOST_KINDS)
			continue;
		firsts[found] = at;
		kinds[i] = kind = found++;
	}
}
