// The counter again in a statically linked program: no dynamic loader, another memory layout.
// cflags: -static
// requires: static-libc
// tags: live
#include "counter.c"
