"""pidfds of processes that move along, also of those that have ended and were not waited for."""

from typing import Final

from core.errors import Blocker
from core.images.pb.descriptors_pb2 import PidfdEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.calls import PIDFD_THREAD
from core.plan.ops import FdAllocator, Program, Syscall
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

LINKS: Final = ("anon_inode:[pidfd]", "pidfd:")


def claims(file: OpenFile) -> bool:
    """By its link, which changed with pidfs."""
    return file.link.startswith(LINKS)


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Of a process that is gone, or that stays behind."""
    pid = own_pid(file)
    if pid <= 0:
        return file.blocker("pidfd-gone", "its process has ended and was waited for", "close it before the migration")
    if table.own_pids and pid not in table.own_pids:
        reason = f"its process {file.info.pidfd_pid} does not move along"
        return file.blocker("pidfd-outside", reason, "migrate the process that has both in its tree, or close it")
    return None


def own_pid(file: OpenFile) -> int:
    """What its process calls itself; 0 or less when it is gone."""
    for line in file.info.lines:
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    return file.info.pidfd_pid or 0


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """The process's own number."""
    entry = PidfdEntry(
        id=id, ino=file.stat.st_ino, flags=file.flags, nspid=own_pid(file), fown=read_owner(file)
    )  # fmt: skip
    return FileEntry(type=FdTypes.PIDFD, id=id, pidfd=entry)


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """Every process of the tree is there when files are made, those that will be zombies too."""
    pidfd, fd = entry.pidfd, fds.take()
    kind = pidfd.flags & PIDFD_THREAD
    op = Syscall("pidfd_open", (pidfd.nspid, kind), f"{why}: process {pidfd.nspid}")
    return (op, *owner_and_flags_ops(fd, pidfd.flags, pidfd.fown, 0, why)), fd
