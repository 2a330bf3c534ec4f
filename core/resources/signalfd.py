"""signalfd(2): a mask. What is pending belongs to the task's signals, not to the descriptor."""

import os
import struct
from typing import Final

from core.errors import Blocker
from core.images.pb.descriptors_pb2 import SignalfdEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.plan.ops import FdAllocator, Program, Syscall
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

LINK: Final = "anon_inode:[signalfd]"


def claims(file: OpenFile) -> bool:
    """By its link."""
    return file.link == LINK


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Always carried."""
    return None


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """The mask."""
    mask = file.info.signalfd_mask or 0
    entry = SignalfdEntry(id=id, flags=file.flags, fown=read_owner(file), sigmask=mask)
    return FileEntry(type=FdTypes.SIGNALFD, id=id, sgfd=entry)


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """One call."""
    signals = entry.sgfd
    fd = fds.take()
    made_with = signals.flags & os.O_NONBLOCK
    op = Syscall("signalfd4", (-1, struct.pack("<Q", signals.sigmask), 8, made_with), why)
    return (op, *owner_and_flags_ops(fd, signals.flags, signals.fown, made_with, why)), fd
