// Ten thousand small mappings with gaps and alternating protection are all where and what they were.
#define VMAS 6667 /* every other one is two to the kernel */
#include "memory_many_vmas.c"
