"""epoll(7): which descriptors are watched for what. Registered in the late program, when all descriptors exist."""

import errno
import os
import struct
from collections.abc import Iterator
from typing import Final

from core.errors import Blocker
from core.images.pb.descriptors_pb2 import EventpollFileEntry, EventpollTfdEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.calls import address_of, kcmp
from core.plan.ops import FdAllocator, Program, Syscall
from core.proc.fdinfo import EpollTarget
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

LINK: Final = "anon_inode:[eventpoll]"
EPOLL_CTL_ADD: Final = 1
KCMP_EPOLL_TFD: Final = 7


def claims(file: OpenFile) -> bool:
    """By its link."""
    return file.link == LINK


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """A watched file whose descriptor was closed or reused, while a duplicate keeps it in the set."""
    for target, nth in _numbered(file.info.epoll_targets):
        if not _is_open_at_its_number(file, target, nth, table):
            reason = f"watches a file that was registered as fd {target.tfd}, which is closed or another file now"
            return file.blocker("epoll-stale", reason, "coming; until then take it out of the set before closing it")
    return None


def _numbered(targets: tuple[EpollTarget, ...]) -> Iterator[tuple[EpollTarget, int]]:
    """Each target with its position among those registered under the same number."""
    seen: dict[int, int] = {}
    for target in targets:
        nth = seen.get(target.tfd, 0)
        seen[target.tfd] = nth + 1
        yield target, nth


def _is_open_at_its_number(file: OpenFile, target: EpollTarget, nth: int, table: OpenTable) -> bool:
    """The descriptor of that number is still the file that is watched. Source: kcmp(2), KCMP_EPOLL_TFD."""
    slot = struct.pack("<III", file.local_fd, target.tfd, nth)
    try:
        return kcmp(file.pid, os.getpid(), KCMP_EPOLL_TFD, target.tfd, address_of(slot)) == 0
    except OSError as error:
        if error.errno == errno.ENOENT:
            return True  # a running task has just taken it out of the set
        if error.errno == errno.EBADF:
            return False
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
            return _looks_open_at_its_number(file.pid, target, table)
        raise


def _looks_open_at_its_number(pid: int, target: EpollTarget, table: OpenTable) -> bool:
    """Without kcmp(2): the inode is the same."""
    found = next((other for other in table.files if (other.pid, other.fd) == (pid, target.tfd)), None)
    return found is not None and target.ino in (None, found.stat.st_ino)


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """The watched descriptors with events and data."""
    entry = EventpollFileEntry(id=id, flags=file.flags, fown=read_owner(file))
    for target in file.info.epoll_targets:
        watched = EventpollTfdEntry(id=id, tfd=target.tfd, events=target.events, data=target.data)
        if target.ino is not None:
            watched.dev, watched.inode, watched.pos = target.sdev or 0, target.ino, target.pos or 0
        entry.tfd.append(watched)
    return FileEntry(type=FdTypes.EVENTPOLL, id=id, epfd=entry)


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """An empty set."""
    poll = entry.epfd
    fd = fds.take()
    op = Syscall("epoll_create1", (0,), why)
    return (op, *owner_and_flags_ops(fd, poll.flags, poll.fown, 0, why)), fd


def plan_late(entry: FileEntry, fd: int, why: str) -> Program:
    """Watch everything. A file that is ready is reported once more even when edge-triggered: no event gets lost."""
    return tuple(
        Syscall(
            "epoll_ctl",
            (fd, EPOLL_CTL_ADD, target.tfd, struct.pack("<IQ", target.events, target.data)),
            f"{why}: watch fd {target.tfd}",
        )
        for target in entry.epfd.tfd
    )
