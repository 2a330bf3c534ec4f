"""Numbers of the format that stand in plain integer fields, with their names."""

import enum


class TaskState(enum.IntEnum):
    """TaskCoreEntry.task_state. `crit show` says "Zombie" for 3; what restores it takes 3 for stopped."""

    ALIVE = 1
    DEAD = 2  # becomes a zombie again
    STOPPED = 3
    LEADER_ENDED = 50000  # ours: it lives, but its first thread has ended; criu refuses a state that it does not know


class VmaStatus(enum.IntEnum):
    """Bits of VmaEntry.status: what a memory area is, and so how it comes back.

    With `&` and `|` they are plain numbers: those of an IntFlag take a microsecond, for each of many areas.
    """

    REGULAR = 1 << 0  # has content that is ours to carry
    STACK = 1 << 1
    VSYSCALL = 1 << 2
    VDSO = 1 << 3
    HEAP = 1 << 5
    FILE_PRIVATE = 1 << 6
    FILE_SHARED = 1 << 7
    ANON_SHARED = 1 << 8
    ANON_PRIVATE = 1 << 9
    SYSVIPC = 1 << 10
    SOCKET = 1 << 11
    VVAR = 1 << 12
    AIORING = 1 << 13
    MEMFD = 1 << 14
    SHADOW_STACK = 1 << 15
    GUARD = 1 << 16  # not an area of its own: a range under MADV_GUARD_INSTALL
    UPROBES = 1 << 17
