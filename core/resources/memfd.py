"""Descriptors of memfds: position and flags. The memory behind them is shared_memory's and segment_store's."""

import os
import stat
from typing import Final

from core.errors import Blocker
from core.images.pb.descriptors_pb2 import MemfdFileEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.descriptors import Sight
from core.kernel.hugetlb import SIZES, page_size_of
from core.memory.ranges import PAGE_SIZE
from core.plan.ops import FdAllocator, Program, Syscall, path_argument
from core.resources.context import O_LARGEFILE, OpenFile, OpenTable, owner_and_flags_ops, read_owner

AT_FDCWD: Final = -100
PREFIX: Final = "/memfd:"


def claims(file: OpenFile) -> bool:
    """A regular file of the name that memfd_create(2) gives."""
    return file.link.startswith(PREFIX) and stat.S_ISREG(file.stat.st_mode) and not file.stat.st_nlink


def is_told(sight: Sight) -> bool:
    """The record tells all of the descriptor."""
    head = sight.head
    is_memfd = sight.link.startswith(PREFIX) and stat.S_ISREG(head.mode) and not head.links
    return is_memfd and max(head.block_size, PAGE_SIZE) in (PAGE_SIZE, *SIZES)


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Locked ones, and those of the largest huge pages."""
    block_size = file.sight.head.block_size if file.sight is not None else 0
    if (max(block_size, PAGE_SIZE) if block_size else page_size_of(file.local_fd)) not in (PAGE_SIZE, *SIZES):
        return file.blocker("memfd", "is of huge pages larger than 2 MiB", "let it use those of 2 MiB")
    if file.info.locks:
        return file.blocker("lock", "holds a file lock", "file locks are coming; release it before the migration")
    return None


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Position, flags; which memory it is, file_table adds."""
    memfd = MemfdFileEntry(id=id, flags=file.flags, pos=file.info.pos, fown=read_owner(file), inode_id=0)
    return FileEntry(type=FdTypes.MEMFD, id=id, memfd=memfd)


def plan(entry: FileEntry, fds: FdAllocator, why: str, handed: int) -> tuple[Program, int]:
    """Open anew the memfd that the task has as descriptor `handed`, go to the position."""
    file = entry.memfd
    fd = fds.take()
    flags = file.flags & ~(os.O_ASYNC | O_LARGEFILE | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL | os.O_TRUNC)
    ops = [Syscall("openat", (AT_FDCWD, path_argument(f"/proc/self/fd/{handed}"), flags, 0), why)]
    if file.flags & os.O_PATH:
        return tuple(ops), fd
    if file.pos:
        ops.append(Syscall("lseek", (fd, file.pos, os.SEEK_SET), f"{why}: position"))
    return (*ops, *owner_and_flags_ops(fd, file.flags, file.fown, flags, why)), fd
