"""Whether facts about files (core.kernel.file_facts) mean what is thought, found out by changing files of ours.

What has not changed has to hold, and after each change something must not. Where one thing is otherwise, nothing is
believed. Changes nothing but files that it makes itself.
"""

import array
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

from core.errors import KernelLacks
from core.kernel.calls import address_of, pidfd_open, syscall
from core.kernel.descriptors import Questions, ints, look
from core.kernel.file_facts import FileFacts, find_places
from core.native._kernel import ffi, lib

TEXT, INODE, ALL = int(lib.MG_HOLDS_TEXT), int(lib.MG_HOLDS_INODE), int(lib.MG_HOLDS_ALL)
HIGH: Final = 70  # a descriptor whose bit is in another word of its table than that of the first ones
F_SETPIPE_SZ, F_ADD_SEALS, F_SEAL_GROW = 1031, 1033, 4
NOBODY: Final = 65534
HOUR: Final = 3600


class Tried(NamedTuple):
    """A descriptor of ours, and the other end of it if it has one."""

    fd: int
    other: int = -1


Make = Callable[[ExitStack], Tried]
Change = Callable[[Tried], object]


def _ours(stack: ExitStack, *fds: int) -> Tried:
    for fd in fds:
        stack.callback(os.close, fd)
    return Tried(*fds)


def _memfd(stack: ExitStack) -> Tried:
    low = _ours(stack, os.memfd_create("migrate-trial", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
    return _ours(stack, fcntl.fcntl(low.fd, fcntl.F_DUPFD_CLOEXEC, HIGH))


def _read_end(stack: ExitStack) -> Tried:
    read, write = _ours(stack, *os.pipe())
    os.write(write, b"x")
    os.read(read, 1)  # where it goes on is not where it begins
    return Tried(read, write)


def _write_end(stack: ExitStack) -> Tried:
    read, write = _read_end(stack)
    return Tried(write, read)


def _eventfd(stack: ExitStack) -> Tried:
    return _ours(stack, os.eventfd(7, os.EFD_SEMAPHORE | os.EFD_CLOEXEC))


def _timerfd(stack: ExitStack) -> Tried:
    return _ours(stack, syscall("timerfd_create", 1, os.O_CLOEXEC))


def _unix(stack: ExitStack) -> Tried:
    return _ours(stack, *(one.detach() for one in socket.socketpair()))


def _udp(stack: ExitStack) -> Tried:
    return _ours(stack, socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach())


def _null(stack: ExitStack) -> Tried:
    return _ours(stack, os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))


def _set_timer(one: Tried, flags: int, interval_s: int, value_s: int, value_ns: int = 0) -> None:
    spec = bytearray(struct.pack("<4q", interval_s, 0, value_s, value_ns))
    syscall("timerfd_settime", one.fd, flags, address_of(spec), 0)


def _replace(one: Tried, make: Make) -> None:
    with ExitStack() as stack:
        os.dup2(make(stack).fd, one.fd, inheritable=False)


def _send(one: Tried) -> None:
    with socket.socket(fileno=os.dup(one.other)) as live:
        live.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fd]))])


def _add_flag(flag: int) -> Change:
    return lambda one: fcntl.fcntl(one.fd, fcntl.F_SETFL, fcntl.fcntl(one.fd, fcntl.F_GETFL) | flag)


def _own(one: Tried) -> None:
    fcntl.fcntl(one.fd, fcntl.F_SETOWN, os.getpid())


TEXTS: Final[Sequence[Change]] = (
    _add_flag(os.O_NONBLOCK), _own, lambda one: os.set_inheritable(one.fd, not os.get_inheritable(one.fd)),
)  # fmt: skip
INODES: Final[Sequence[Change]] = (
    lambda one: os.fchmod(one.fd, 0o123), lambda one: os.fchown(one.fd, NOBODY, -1),
    lambda one: os.fchown(one.fd, -1, NOBODY),
)  # fmt: skip
# What holds of a file as long as it is as it was, and after which changes that does not.
TRIALS: Final[Sequence[tuple[Make, int, Sequence[Change]]]] = (
    (_null, TEXT, TEXTS),
    (
        _memfd, ALL,
        (
            *TEXTS, *INODES, lambda one: os.lseek(one.fd, 5, os.SEEK_SET), lambda one: os.ftruncate(one.fd, 9),
            lambda one: fcntl.fcntl(one.fd, F_ADD_SEALS, F_SEAL_GROW), lambda one: fcntl.flock(one.fd, fcntl.LOCK_SH),
            lambda one: _replace(one, _memfd),
        ),
    ),
    (
        _read_end, ALL,
        (
            *TEXTS, *INODES, lambda one: os.write(one.other, b"x"), lambda one: os.dup2(one.fd, one.other),
            lambda one: fcntl.fcntl(one.fd, F_SETPIPE_SZ, 1 << 14), lambda one: _replace(one, _read_end),
        ),
    ),
    (_write_end, ALL, (lambda one: os.write(one.fd, b"x"), lambda one: os.dup2(one.fd, one.other))),
    (
        _eventfd, ALL,
        (
            *TEXTS, lambda one: os.eventfd_write(one.fd, 1), lambda one: _replace(one, _eventfd),
            lambda one: _replace(one, _timerfd),
        ),
    ),
    (
        _timerfd, ALL,
        (
            *TEXTS, lambda one: _set_timer(one, 0, 0, HOUR), lambda one: _set_timer(one, 1, 0, HOUR << 20),
            lambda one: _set_timer(one, 0, HOUR, 0, 1), lambda one: _set_timer(one, 0, HOUR, 0),
            lambda one: _set_timer(one, 1, 0, 0), lambda one: _replace(one, _eventfd),
        ),
    ),
    (_unix, TEXT | INODE, (*TEXTS, *INODES, _send, lambda one: _replace(one, _unix))),
    (_udp, TEXT | INODE, (*TEXTS, *INODES)),
)  # fmt: skip


def _all_tried(stack: ExitStack) -> Iterator[tuple[Tried, int, Change]]:
    for make, holds, changes in TRIALS:
        for change in changes:
            yield make(stack), holds, change


def _operations(facts: FileFacts, task: int) -> Any:
    """How the kernel tells eventfds and timerfds, from one of each of ours."""
    with ExitStack() as stack:
        events, timers = _eventfd(stack).fd, _timerfd(stack).fd
        of = {one.fd: one.operations for one in facts.read(task)}
        if of.get(events) == of.get(timers) or not {events, timers} <= of.keys():
            raise KernelLacks("facts about files", "they do not tell of ours")
        return ffi.new("struct mg_operations *", (of[events], of[timers]))


def try_facts(facts: FileFacts) -> Any:
    """struct mg_operations, for who takes facts. KernelLacks: they do not mean what is thought; OSError: it cannot be
    tried here."""
    with ExitStack() as stack:
        pidfd, task = _ours(stack, pidfd_open(os.getpid()), facts.open_task(os.getpid()))
        operations = _operations(facts, task)
        tried = sorted(_all_tried(stack), key=lambda one: one[0].fd)
        fds = [one.fd for one, _, _ in tried]
        records = look(os.getpid(), pidfd, fds, Questions(()))

        def found() -> list[int]:
            now = facts.read(task)
            places = list(find_places(now, ints(fds)))
            if min(places) < 0 or None in records:
                raise KernelLacks("facts about files", "they do not tell of ours")
            known = [ffi.cast("struct mg_sight *", ffi.from_buffer(record or b"")) for record in records]
            return [lib.mg_what_holds(one, now + place, operations) for one, place in zip(known, places, strict=True)]

        if found() != [holds for _, holds, _ in tried]:
            raise KernelLacks("facts about files", "they do not tell what is the case of ours")
        for one, _, change in tried:
            change(one)
        if not all(now != holds for now, (_, holds, _) in zip(found(), tried, strict=True)):
            raise KernelLacks("facts about files", "they do not tell what has changed in ours")
        return operations
