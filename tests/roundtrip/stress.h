// What the programs that store at random share: a failed call ends them with its line, xorshift gives the numbers.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define READ_WRITE (PROT_READ | PROT_WRITE)
#define MUST(call)                                                        \
	({                                                                \
		__auto_type value_ = (call);                              \
		if (value_ == (__typeof__(value_))-1) {                   \
			fprintf(stderr, "%d: %s: %m\n", __LINE__, #call); \
			_exit(2);                                         \
		}                                                         \
		value_;                                                   \
	})

static inline uint64_t next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}
