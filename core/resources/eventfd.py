"""eventfd(2): a counter. Must not change it, except to ask an old kernel whether it is a semaphore, and back."""

import os
import struct
from typing import Final

from core.errors import Blocker
from core.images.pb.descriptors_pb2 import EventfdFileEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.descriptors import Sight
from core.plan.ops import FdAllocator, Program, Syscall
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

LINK: Final = "anon_inode:[eventfd]"
EFD_SEMAPHORE: Final = 1
LARGEST: Final = (1 << 64) - 2


def claims(file: OpenFile) -> bool:
    """By its link."""
    return file.link == LINK


def is_told(sight: Sight) -> bool:
    """The record tells all: the counter, and the mode since Linux 6.5."""
    return sight.link == LINK and "eventfd-count:" in sight.info and "eventfd-semaphore:" in sight.info


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Always carried."""
    return None


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Counter and mode; EFD_SEMAPHORE shares `flags` with the O_ flags, none of which has its bit when O_RDWR."""
    count = file.info.eventfd_count or 0
    semaphore = file.info.eventfd_semaphore
    if semaphore is None:  # before Linux 6.5
        semaphore = probe_semaphore(file.local_fd, count)
    flags = file.flags | (EFD_SEMAPHORE if semaphore else 0)
    entry = EventfdFileEntry(id=id, flags=flags, fown=read_owner(file), counter=count)
    return FileEntry(type=FdTypes.EVENTFD, id=id, efd=entry)


def probe_semaphore(fd: int, count: int) -> bool:
    """Read once and put back: a semaphore gives 1 where another gives everything. The task must be frozen."""
    if count > LARGEST - 2:
        return False
    added = 2 if count == 0 else 1  # 1 alone would look alike in both modes
    os.write(fd, struct.pack("<Q", added))
    (got,) = struct.unpack("<Q", os.read(fd, 8))
    left_over = count + added - got
    if got == 1:
        _drain(fd, left_over - count)
        return True
    if count:
        os.write(fd, struct.pack("<Q", count))
    return False


def _drain(fd: int, times: int) -> None:
    for _ in range(times):
        os.read(fd, 8)


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """Make it empty, then add: eventfd2 takes 32 bits only, the counter has 64."""
    event = entry.efd
    fd = fds.take()
    mode = event.flags & (EFD_SEMAPHORE | os.O_NONBLOCK)
    ops = [Syscall("eventfd2", (0, mode), why)]
    if event.counter:
        ops.append(Syscall("write", (fd, struct.pack("<Q", event.counter), 8), f"{why}: counter"))
    return (*ops, *owner_and_flags_ops(fd, event.flags, event.fown, event.flags & os.O_NONBLOCK, why)), fd
