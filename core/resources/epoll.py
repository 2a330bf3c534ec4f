"""epoll(7): which descriptors are watched for what. Registered in the late program, when all descriptors exist."""

import errno
import fcntl
import os
import select
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Final

from core.errors import Blocker
from core.images.pb.descriptors_pb2 import EventpollFileEntry, EventpollTfdEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.calls import address_of, kcmp
from core.plan.ops import FdAllocator, Out, Program, Result, Syscall
from core.proc.fdinfo import EpollTarget
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

LINK: Final = "anon_inode:[eventpoll]"
EPOLL_CTL_ADD: Final = 1
EPOLLONESHOT: Final = 1 << 30
PRIVATE: Final = 0xF << 28  # with it: EPOLLET, EPOLLWAKEUP, EPOLLEXCLUSIVE
ANY: Final = select.EPOLLIN | select.EPOLLPRI | select.EPOLLOUT
EVENT_SIZE: Final = 12
KCMP_EPOLL_TFD: Final = 7
LOOKS: Final = 5  # at a set that changes meanwhile
CLOSES_S: Final = 0.0005


def claims(file: OpenFile) -> bool:
    """By its link."""
    return file.link == LINK


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """A watched file that this task has no descriptor of any more; another one, or a queue, keeps it in the set."""
    for target, nth in _numbered(file.info.epoll_targets):
        if not _is_found_or_gone(file, target, nth, table):
            reason = f"watches a file that was registered as fd {target.tfd}, which the task does not have any more"
            return file.blocker("epoll-stale", reason, "take it out of the set before closing it")
    return None


def _is_found_or_gone(file: OpenFile, target: EpollTarget, nth: int, table: OpenTable) -> bool:
    """A running task may have closed it since the set was read, and have registered another one by its number since;
    interrupted within close(2) it has no descriptor any more, but the set still has the file."""
    for look in range(LOOKS):
        if _find(file, target, nth, table) is not None or not _is_in_set(file, target, nth):
            return True
        time.sleep(CLOSES_S * 2**look)
    return False


def _is_in_set(file: OpenFile, target: EpollTarget, nth: int) -> bool:
    """The number is registered, whatever is open at it. Without kcmp(2): it is. Source: KCMP_EPOLL_TFD's ENOENT."""
    try:
        _is_target(file, os.getpid(), file.local_fd, target, nth)
    except OSError as error:
        return error.errno != errno.ENOENT
    return True


def _find(file: OpenFile, target: EpollTarget, nth: int, table: OpenTable) -> int | None:
    """A descriptor of the watched file in the task that watches it: its own number, or where a duplicate is."""
    if _is_open_at_its_number(file, target, nth, table):
        return target.tfd
    for other in table.files:
        same = (other.pid, other.carrier) == (file.pid, "") and target.ino in (None, other.stat.st_ino)
        if same and other.fd != target.tfd and _is_watched_as(file, other.fd, target, nth):
            return other.fd
    return None


def _is_watched_as(file: OpenFile, fd: int, target: EpollTarget, nth: int) -> bool:
    try:
        return _is_target(file, file.pid, fd, target, nth)
    except OSError:
        return False


def _is_target(file: OpenFile, pid: int, fd: int, target: EpollTarget, nth: int) -> bool:
    """Descriptor `fd` of `pid` is the file that is registered there. OSError. Source: kcmp(2), KCMP_EPOLL_TFD."""
    slot = struct.pack("<III", file.local_fd, target.tfd, nth)
    return kcmp(pid, os.getpid(), KCMP_EPOLL_TFD, fd, address_of(slot)) == 0


def _numbered(targets: tuple[EpollTarget, ...]) -> Iterator[tuple[EpollTarget, int]]:
    """Each target with its position among those registered under the same number."""
    seen: dict[int, int] = {}
    for target in targets:
        nth = seen.get(target.tfd, 0)
        seen[target.tfd] = nth + 1
        yield target, nth


def _is_open_at_its_number(file: OpenFile, target: EpollTarget, nth: int, table: OpenTable) -> bool:
    """The descriptor of that number is still the file that is watched."""
    try:
        return _is_target(file, file.pid, target.tfd, target, nth)
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
    for target, nth in _numbered(file.info.epoll_targets):
        watched = EventpollTfdEntry(id=id, tfd=target.tfd, events=target.events, data=target.data)
        found = _find(file, target, nth, table)
        if found is not None and found != target.tfd:
            watched.found_as = found
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


def plan_late(entry: FileEntry, fd: int, numbers: Mapping[int, int], why: str) -> Program:
    """Watch everything. A file that is ready is reported once more even when edge-triggered: no event gets lost.

    Those that have fired come first: nothing else is ready then. `numbers`: every descriptor of the task, with its
    FD_CLOEXEC.
    """
    ops: list[Syscall] = []
    for target in sorted(entry.epfd.tfd, key=_has_fired, reverse=True):
        watched = struct.pack("<IQ", target.events, target.data)
        add = Syscall("epoll_ctl", (fd, EPOLL_CTL_ADD, target.tfd, watched), f"{why}: watch fd {target.tfd}")
        watch = (add, *_fire(fd, target, why)) if _has_fired(target) else (add,)
        ops += _watch_elsewhere(watch, target, numbers, why) if target.HasField("found_as") else watch
    return tuple(ops)


def _has_fired(target: EventpollTfdEntry) -> bool:
    """An EPOLLONESHOT that waits to be armed again: without EPOLLERR and EPOLLHUP, which are watched always else."""
    return target.events & ~PRIVATE == 0 and bool(target.events & EPOLLONESHOT)


def _fire(fd: int, target: EventpollTfdEntry, why: str) -> Program:
    """It was added with EPOLLERR and EPOLLHUP, and only firing takes these away. So it fires, if its file is ready.

    That is told by poll(2) of three that are the same: 3 is EPOLL_CTL_MOD, and 0 nothing that epoll_ctl(2) knows.
    """
    why = f"{why}: fd {target.tfd} has fired"
    watched = struct.pack("<IQ", target.events | ANY, target.data)
    polled = Syscall("poll", (3 * struct.pack("<ihh", target.tfd, ANY, 0), 3, 0), why)
    return (
        polled, Syscall("epoll_ctl", (fd, Result(polled), target.tfd, watched), why, may_fail=True),
        Syscall("epoll_wait", (fd, Out(EVENT_SIZE), 1, 0), why),
    )  # fmt: skip


def _watch_elsewhere(watch: Program, target: EventpollTfdEntry, numbers: Mapping[int, int], why: str) -> Program:
    """The file has the number that it was registered by for this moment only."""
    tfd = target.tfd
    lend = Syscall("dup3", (target.found_as, tfd, 0), f"{why}: fd {target.found_as} as fd {tfd}")
    if tfd not in numbers:
        return (lend, *watch, Syscall("close", (tfd,), f"{why}: fd {tfd} is closed"))
    spare = 1 + max(numbers)
    flags = os.O_CLOEXEC if numbers[tfd] & fcntl.FD_CLOEXEC else 0
    return (
        Syscall("dup3", (tfd, spare, 0), f"{why}: fd {tfd} aside"), lend, *watch,
        Syscall("dup3", (spare, tfd, flags), f"{why}: fd {tfd} back"),
        Syscall("close", (spare,), f"{why}: fd {tfd} is back"),
    )  # fmt: skip
