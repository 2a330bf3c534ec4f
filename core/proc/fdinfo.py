"""/proc/PID/fdinfo/FD: position, flags and what each kind of descriptor adds."""

import re
from dataclasses import dataclass, replace
from typing import Final

from core.errors import CollectError
from core.proc.text import malformed

NANOSECONDS: Final = 1_000_000_000
_PLAIN: Final = re.compile(r"pos:\t([0-9]+)\nflags:\t([0-7]+)\nmnt_id:\t([0-9]+)\nino:\t([0-9]+)\n")
_PAIR: Final = re.compile(r"\((\d+), (\d+)\)$")
_EPOLL: Final = re.compile(
    r"tfd:\s*(\d+) events:\s*([0-9a-f]+) data:\s*([0-9a-f]+)(?:\s+pos:(-?\d+) ino:([0-9a-f]+) sdev:([0-9a-f]+))?"
)
_LOCK: Final = re.compile(r"lock:\s*\d+: (\S+)\s+(\S+)\s+(\S+) (-?\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (EOF|\d+)")


@dataclass(frozen=True, slots=True)
class EpollTarget:
    """One registration of an epoll: `tfd` is the number used at EPOLL_CTL_ADD, `sdev` the kernel's device word.

    The last three are None on kernels before 4.13.
    """

    tfd: int
    events: int
    data: int
    pos: int | None = None
    ino: int | None = None
    sdev: int | None = None


@dataclass(frozen=True, slots=True)
class Timerfd:
    """A timerfd; it_value_ns is what is left until it expires, 0 when disarmed."""

    clockid: int
    ticks: int
    settime_flags: int
    it_value_ns: int
    it_interval_ns: int


@dataclass(frozen=True, slots=True)
class FileLock:
    """A lock held through this file; `end` None means to the end of the file."""

    kind: str  # FLOCK, POSIX, OFDLCK, LEASE, DELEG
    mode: str  # ADVISORY …
    access: str  # READ, WRITE, UNLCK
    pid: int
    inode: int
    start: int
    end: int | None


@dataclass(frozen=True, slots=True)
class FdInfo:
    """What fdinfo says of one descriptor; flags are open(2)'s with O_CLOEXEC where the descriptor has it.

    eventfd_semaphore is None on kernels before 6.5.
    `lines` is everything that has no field of its own (inotify, fanotify, io_uring, …), as written.
    """

    pos: int
    flags: int
    mnt_id: int | None = None
    ino: int | None = None
    eventfd_count: int | None = None
    eventfd_semaphore: bool | None = None
    signalfd_mask: int | None = None
    timerfd: Timerfd | None = None
    epoll_targets: tuple[EpollTarget, ...] = ()
    locks: tuple[FileLock, ...] = ()
    pidfd_pid: int | None = None
    lines: tuple[str, ...] = ()


_SIMPLE: Final = {
    "pos": 10, "flags": 8, "mnt_id": 10, "ino": 10, "eventfd-count": 16, "eventfd-semaphore": 10, "sigmask": 16,
    "Pid": 10, "clockid": 10, "ticks": 10, "settime flags": 8,
}  # fmt: skip


def parse_fdinfo(text: str, file: str = "fdinfo") -> FdInfo:
    """Record of one descriptor. Source: proc_pid_fdinfo(5)."""
    if plain := _PLAIN.fullmatch(text):  # most are
        pos, flags, mnt_id, ino = plain.groups()
        return FdInfo(pos=int(pos), flags=int(flags, 8), mnt_id=int(mnt_id), ino=int(ino))
    numbers: dict[str, int] = {}
    times: dict[str, int] = {}
    targets: list[EpollTarget] = []
    locks: list[FileLock] = []
    rest: list[str] = []
    for line_number, line in enumerate(text.split("\n"), 1):
        key, colon, value = line.partition(":")
        try:
            if key in _SIMPLE and colon:
                numbers[key] = int(value, _SIMPLE[key])
            elif key == "tfd":
                targets.append(_parse_target(line))
            elif key == "lock":
                locks.append(_parse_lock(line))
            elif key in ("it_value", "it_interval"):
                times[key] = _parse_time(value)
            elif line:
                rest.append(line)
        except ValueError:
            raise malformed(file, line_number, line) from None
    if "pos" not in numbers or "flags" not in numbers:
        raise CollectError(file, "has no pos and flags")
    return _assembled(numbers, times, tuple(targets), tuple(locks), tuple(rest))


def _assembled(
    numbers: dict[str, int], times: dict[str, int], targets: tuple[EpollTarget, ...], locks: tuple[FileLock, ...],
    rest: tuple[str, ...],
) -> FdInfo:  # fmt: skip
    timerfd = None
    if "clockid" in numbers:
        timerfd = Timerfd(
            numbers["clockid"], numbers.get("ticks", 0), numbers.get("settime flags", 0), times.get("it_value", 0),
            times.get("it_interval", 0),
        )  # fmt: skip
    return FdInfo(
        pos=numbers["pos"], flags=numbers["flags"], mnt_id=numbers.get("mnt_id"), ino=numbers.get("ino"),
        eventfd_count=numbers.get("eventfd-count"), eventfd_semaphore=_flag(numbers.get("eventfd-semaphore")),
        signalfd_mask=numbers.get("sigmask"), timerfd=timerfd, epoll_targets=targets, locks=locks,
        pidfd_pid=numbers.get("Pid"), lines=rest,
    )  # fmt: skip


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def _parse_target(line: str) -> EpollTarget:
    match = _EPOLL.match(line)
    if match is None:
        raise ValueError
    tfd, events, data, pos, ino, sdev = match.groups()
    known = EpollTarget(int(tfd), int(events, 16), int(data, 16))
    return known if pos is None else replace(known, pos=int(pos), ino=int(ino, 16), sdev=int(sdev, 16))


def _parse_lock(line: str) -> FileLock:
    match = _LOCK.match(line)
    if match is None:
        raise ValueError
    kind, mode, access, pid, _major, _minor, inode, start, end = match.groups()
    return FileLock(kind, mode, access, int(pid), int(inode), int(start), None if end == "EOF" else int(end))


def _parse_time(value: str) -> int:
    match = _PAIR.search(value)
    if match is None:
        raise ValueError
    return int(match[1]) * NANOSECONDS + int(match[2])
