"""Clocks of a program on a host that booted later: how far CLOCK_MONOTONIC and CLOCK_BOOTTIME have to be set forward.

The namespace itself is made by core/tracee/spawn.py. With no need for one there is none.
"""

import time
from dataclasses import dataclass
from typing import Final

from core.errors import RestoreError
from core.images import kinds
from core.images.pb.namespaces_pb2 import TimensEntry, Timespec
from core.images.store import ImageSet
from core.proc.reader import ProcReader

BILLION: Final = 1_000_000_000
LONGEST_WAIT_NS: Final = 2 * BILLION
IMAGE_ID: Final = 0
BOOTTIME_CLOCKS: Final = (time.CLOCK_BOOTTIME, 9)  # 9: CLOCK_BOOTTIME_ALARM
MONOTONIC_CLOCKS: Final = (time.CLOCK_MONOTONIC, 4, 6)  # 4, 6: _RAW, _COARSE


@dataclass(frozen=True, slots=True)
class Clocks:
    """Readings in nanoseconds, or how much is added to each of them. realtime_ns 0: not known, never added to."""

    monotonic_ns: int = 0
    boottime_ns: int = 0
    realtime_ns: int = 0

    def __bool__(self) -> bool:
        return bool(self.monotonic_ns or self.boottime_ns)

    def plus(self, offsets: "Clocks") -> "Clocks":
        """Readings inside of a namespace with these offsets."""
        return Clocks(
            self.monotonic_ns + offsets.monotonic_ns, self.boottime_ns + offsets.boottime_ns, self.realtime_ns
        )  # fmt: skip

    def by_clock(self) -> dict[int, int]:
        """What is added to each clock that a time namespace changes."""
        found = dict.fromkeys(MONOTONIC_CLOCKS, self.monotonic_ns)
        return found | dict.fromkeys(BOOTTIME_CLOCKS, self.boottime_ns)

    def as_timens_offsets(self) -> str:
        """Text for /proc/PID/timens_offsets; empty when nothing is to be added."""
        if not self:
            return ""
        lines = (("monotonic", self.monotonic_ns), ("boottime", self.boottime_ns))
        return "".join("{} {} {}\n".format(name, *divmod(value, BILLION)) for name, value in lines)


NO_OFFSETS: Final = Clocks()


def read_clocks() -> Clocks:
    """This host's, as we see them."""
    return Clocks(
        time.clock_gettime_ns(time.CLOCK_MONOTONIC), time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        time.clock_gettime_ns(time.CLOCK_REALTIME),
    )  # fmt: skip


def parse_timens_offsets(text: str) -> Clocks:
    """What /proc/PID/timens_offsets says that is added to the host's clocks in there."""
    found = {"monotonic": 0, "boottime": 0}
    for line in text.splitlines():
        name, seconds, nanoseconds = line.split()
        found[name] = int(seconds) * BILLION + int(nanoseconds)
    return Clocks(found["monotonic"], found["boottime"])


def read_offsets(reader: ProcReader, pid: int) -> Clocks:
    """What is added to the host's clocks where process `pid` is."""
    try:
        return parse_timens_offsets(reader.text(pid, "timens_offsets"))
    except FileNotFoundError:  # a kernel without time namespaces
        return NO_OFFSETS


def collect(here: Clocks, its_offsets: Clocks, our_offsets: Clocks) -> TimensEntry:
    """The clocks as the program reads them, with the time of day. Offsets count from the host's own clocks."""
    its = Clocks(
        here.monotonic_ns - our_offsets.monotonic_ns + its_offsets.monotonic_ns,
        here.boottime_ns - our_offsets.boottime_ns + its_offsets.boottime_ns,
    )  # fmt: skip
    return TimensEntry(
        monotonic=_timespec(its.monotonic_ns), boottime=_timespec(its.boottime_ns),
        realtime=_timespec(here.realtime_ns),
    )  # fmt: skip


def _timespec(nanoseconds: int) -> Timespec:
    seconds, rest = divmod(nanoseconds, BILLION)
    return Timespec(tv_sec=seconds, tv_nsec=rest)


def clocks_of(entry: TimensEntry) -> Clocks:
    """What the program's clocks showed when the image was made."""
    values = (entry.monotonic, entry.boottime, entry.realtime)
    return Clocks(*(value.tv_sec * BILLION + value.tv_nsec for value in values))


def decide_offsets(then: Clocks, here: Clocks) -> Clocks:
    """What to add here so that neither clock goes back, and the time since `then` has passed on it too. Pure.

    A clock that is ahead already is left alone: a program must bear that a clock stands further on.
    """
    passed = max(0, here.realtime_ns - then.realtime_ns) if then.realtime_ns else 0
    return Clocks(
        _offset(then.monotonic_ns, here.monotonic_ns, passed), _offset(then.boottime_ns, here.boottime_ns, passed)
    )  # fmt: skip


def offsets_here(entry: TimensEntry) -> Clocks:
    """decide_offsets for an image, on this host, now."""
    return decide_offsets(clocks_of(entry), read_clocks())


def _offset(then_ns: int, here_ns: int, passed_ns: int) -> int:
    return then_ns + passed_ns - here_ns if here_ns < then_ns else 0


def behind_ns(then: Clocks, here: Clocks, offsets: Clocks) -> int:
    """By how much a clock with these offsets would go back now; 0 when none does. Pure."""
    now = here.plus(offsets)
    return max(0, then.monotonic_ns - now.monotonic_ns, then.boottime_ns - now.boottime_ns)


def wait_caught_up(images: ImageSet, offsets: Clocks) -> None:
    """Until no clock would go back: offsets are decided before the freeze and may be short of the way's duration."""
    if not images.has(kinds.TIMENS, IMAGE_ID):
        return
    then = clocks_of(images.one(kinds.TIMENS, IMAGE_ID))
    behind = behind_ns(then, read_clocks(), offsets)
    if behind > LONGEST_WAIT_NS:
        raise RestoreError(f"its clocks would go back by {behind / BILLION:.1f} s: the source's have leapt meanwhile")
    time.sleep(behind / BILLION)


def notice(offsets: Clocks) -> str:
    """What the user should know of a namespace with these."""
    ahead = max(offsets.monotonic_ns, offsets.boottime_ns) / BILLION
    return f"its clocks run {ahead:.0f} s ahead, in a time namespace: this host booted later than the source"
