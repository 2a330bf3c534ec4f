"""Adjustments that System V semaphores get when a task ends (SEM_UNDO): only the kernel's own memory tells of them.

A task's list is found by its directory in /proc: inode, struct pid, task. Source: ipc/sem.c, fs/proc/internal.h.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from core.kernel.kernel_memory import PAGE, KernelMemory, open_kernel_memory

LAYOUT: Final = (
    ("file", ("f_inode",)),
    ("proc_inode", ("pid", "vfs_inode")),
    ("pid", ("tasks",)),
    ("task_struct", ("pid_links", "sysvsem")),
    ("sysv_sem", ("undo_list",)),
    ("sem_undo_list", ("list_proc",)),
    ("sem_undo", ("list_proc", "ulp", "semid", "semadj")),
)
WITHIN: Final = 4  # bytes between semid and semadj where this is an array (since Linux 6.6), not a pointer to one
ADJUSTMENT: Final = 2  # bytes
LONGEST: Final = 1 << 16  # more sets than there can be in a namespace
GONE: Final = 0xFFFFFFFF  # id of a set that was removed


class UndoLists:
    """Tells of any task's list; see open_undo_lists()."""

    def __init__(self, memory: KernelMemory) -> None:
        self._memory = memory

    def find(self, tid: int) -> int:
        """Where the list of a task is, which threads and some processes share; 0: it has none, or has ended."""
        memory, offsets = self._memory, self._memory.offsets
        try:
            descriptor = os.open(f"/proc/{tid}", os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            inode = memory.field(memory.file(descriptor), "file", "f_inode") - offsets["proc_inode"]["vfs_inode"]
            link = memory.field(memory.field(inode, "proc_inode", "pid"), "pid", "tasks")
        finally:
            os.close(descriptor)
        if not link:
            return 0
        task = link - offsets["task_struct"]["pid_links"]
        return memory.field(task + offsets["task_struct"]["sysvsem"], "sysv_sem", "undo_list")

    def read(self, place: int, sizes: Mapping[int, int]) -> dict[int, tuple[int, ...]]:
        """Adjustments by set, one for each of its semaphores, of the list at `place`.

        `sizes`: how many semaphores each set has. OSError: the list changed while it was read.
        """
        found = {}
        for undo in self._walk(place):
            id = self._memory.field(undo, "sem_undo", "semid") & GONE
            if id != GONE and id in sizes:
                found[id] = self._adjustments(undo, sizes[id])
        return found

    def _walk(self, place: int) -> Iterator[int]:
        memory, offsets = self._memory, self._memory.offsets
        head = place + offsets["sem_undo_list"]["list_proc"]
        node = memory.word(head)
        for _ in range(LONGEST):
            if node == head:
                return
            undo = node - offsets["sem_undo"]["list_proc"]
            if memory.field(undo, "sem_undo", "ulp") != place:
                break
            yield undo
            node = memory.word(node)
        raise InterruptedError

    def _adjustments(self, undo: int, count: int) -> tuple[int, ...]:
        offsets, size = self._memory.offsets["sem_undo"], count * ADJUSTMENT
        start = undo + offsets["semadj"]
        if offsets["semadj"] - offsets["semid"] != WITHIN:
            start = self._memory.word(start)
        parts = (self._memory.read(start + at, min(PAGE, size - at)) for at in range(0, size, PAGE))
        return struct.unpack(f"<{count}h", b"".join(parts))


@contextmanager
def open_undo_lists() -> Iterator[UndoLists]:
    """For the time of a with block. KernelLacks: they cannot be looked at here."""
    with open_kernel_memory(*LAYOUT) as memory:
        yield UndoLists(memory)
