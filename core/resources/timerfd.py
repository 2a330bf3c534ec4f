"""timerfd(2): clock, time left, period, expirations not read yet.

A relative timer keeps its time left. One that was set to an absolute time is due at the same moment as before, by the
wall clock, which the hosts share: so what passes meanwhile counts. Armed in the late program, when all else stands.
"""

import os
import struct
import time
from dataclasses import dataclass
from typing import Final

from core.errors import Blocker, CollectError
from core.images.pb.descriptors_pb2 import TimerfdEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.descriptors import Sight
from core.plan.ops import FdAllocator, Program, Syscall
from core.proc.fdinfo import parse_fdinfo
from core.resources.context import TIMERFD_LINK, OpenFile, OpenTable, owner_and_flags_ops, read_owner

TFD_TIMER_ABSTIME: Final = 1
TFD_TIMER_CANCEL_ON_SET: Final = 2
TFD_IOC_SET_TICKS: Final = 0x40085400
WALL_CLOCKS: Final = (time.CLOCK_REALTIME, 8)  # 8: CLOCK_REALTIME_ALARM
BILLION: Final = 1_000_000_000


def claims(file: OpenFile) -> bool:
    """By its link."""
    return file.link == TIMERFD_LINK


def is_told(sight: Sight) -> bool:
    """The record tells all, of one that is disarmed or not due yet; but for moments, which depend on the wall clock."""
    if sight.link != TIMERFD_LINK:
        return False
    timer = parse_fdinfo(sight.info).timerfd
    if timer is None or timer.settime_flags & TFD_TIMER_ABSTIME:
        return False
    return bool(timer.it_value_ns or not timer.it_interval_ns) and not timer.ticks


def may_be_due(file: OpenFile) -> bool:
    """It looks disarmed. So does one that was to expire once and is due, until the processor that it was armed on has
    counted it: for some microseconds, or for as long as the hypervisor lets that one wait."""
    timer = file.info.timerfd
    return timer is not None and not (timer.it_value_ns or timer.it_interval_ns or timer.ticks)


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Always carried."""
    return None


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """As fdinfo tells it; the time left is counted from the freeze."""
    timer = file.info.timerfd
    if timer is None:
        raise CollectError(file.subject, "its fdinfo tells no timer")
    left = time_left_ns(timer.it_value_ns, timer.it_interval_ns, timer.ticks)
    seconds, nanoseconds = divmod(left, BILLION)
    period_seconds, period_nanoseconds = divmod(timer.it_interval_ns, BILLION)
    entry = TimerfdEntry(
        id=id, flags=file.flags, fown=read_owner(file), clockid=timer.clockid, ticks=timer.ticks,
        settime_flags=timer.settime_flags, vsec=seconds, vnsec=nanoseconds,
        isec=period_seconds, insec=period_nanoseconds,
    )  # fmt: skip
    if left and timer.settime_flags & TFD_TIMER_ABSTIME:
        entry.due_ns = time.clock_gettime_ns(time.CLOCK_REALTIME) + left
    return FileEntry(type=FdTypes.TIMERFD, id=id, tfd=entry)


def time_left_ns(value_ns: int, period_ns: int, ticks: int) -> int:
    """Of a timer as fdinfo tells it: one whose period has ended just now has none left, and the next one is whole.

    One that was disarmed has none left either, may keep its period all the same, and has no ticks to be read.
    """
    return value_ns or (period_ns if ticks else 0)


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """Make it, unarmed."""
    timer = entry.tfd
    fd = fds.take()
    made_with = timer.flags & os.O_NONBLOCK
    op = Syscall("timerfd_create", (timer.clockid, made_with), why)
    return (op, *owner_and_flags_ops(fd, timer.flags, timer.fown, made_with, why)), fd


def plan_late(entry: FileEntry, fd: int, why: str) -> Program:
    """Arm it; then the expirations, which arming would clear."""
    timer = entry.tfd
    arming = decide_arming(timer, time.clock_gettime_ns(time.CLOCK_REALTIME))
    ops: list[Syscall] = []
    if arming.value_ns or arming.period_ns:
        spec = struct.pack("<qqqq", *divmod(arming.period_ns, BILLION), *divmod(arming.value_ns, BILLION))
        ops.append(Syscall("timerfd_settime", (fd, arming.flags, spec, 0), f"{why}: arm"))
    if arming.ticks:
        ticks = struct.pack("<Q", arming.ticks)
        ops.append(Syscall("ioctl", (fd, TFD_IOC_SET_TICKS, ticks), f"{why}: expirations"))
    return tuple(ops)


@dataclass(frozen=True, slots=True)
class Arming:
    """For timerfd_settime(2), and expirations to be read. value_ns 0: it stays unarmed, whatever its period."""

    flags: int
    value_ns: int
    period_ns: int
    ticks: int


def decide_arming(timer: TimerfdEntry, now_ns: int) -> Arming:
    """How to set it at `now_ns` of the wall clock. Pure."""
    period = timer.isec * BILLION + timer.insec
    left = time_left_ns(timer.vsec * BILLION + timer.vnsec, period, timer.ticks)  # criu writes what fdinfo tells
    if not timer.due_ns or not left:
        return Arming(0, left, period, timer.ticks)
    if timer.clockid in WALL_CLOCKS:  # so that setting the clock moves it
        flags = timer.settime_flags & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)
        return Arming(flags, timer.due_ns, period, timer.ticks)
    left = timer.due_ns - now_ns
    missed = -left // period + 1 if left <= 0 and period else 0
    return Arming(0, max(1, left + missed * period), period, timer.ticks + missed)
