"""Which files were mapped and which processes forked on this host: perf's side-band records, of all CPUs.

A mapping that comes and goes between two looks at /proc leaves no other trace. Source: perf_event_open(2).
"""

import errno
import mmap
import os
import struct
from dataclasses import dataclass
from typing import Final, Self

from core.kernel.calls import address_of, syscall

ATTRIBUTES: Final = struct.Struct("IIQQQQQIIQQ")  # struct perf_event_attr as far as PERF_ATTR_SIZE_VER1
TYPE_SOFTWARE, COUNT_SW_DUMMY = 1, 9
# Bits of its flags: mappings, tasks, mappings that are not executable, with inodes
WATCHED: Final = 1 << 8 | 1 << 13 | 1 << 17 | 1 << 23
PERF_FLAG_FD_CLOEXEC: Final = 8
HEADER: Final = struct.Struct("IHH")
RECORD_LOST, RECORD_FORK, RECORD_MMAP2 = 2, 7, 10
FORK: Final = struct.Struct("II")  # pid, ppid
MMAP2: Final = struct.Struct("II8x8x8xIIQ")  # pid, tid, address, length, offset, device, inode
PAGE: Final = mmap.PAGESIZE
RING_BYTES: Final = 128 * PAGE
FULL_BYTES: Final = RING_BYTES - 8192  # a record may have been lost: the longest one has a path in it
HEAD, TAIL = 1024, 1032  # of struct perf_event_mmap_page

Inode = tuple[int, int]


@dataclass(slots=True)
class Happened:
    """`mapped`: device and inode of a file, and who mapped it; `forked`: whose children were born; `unknown`: any of
    that may have happened without being told."""

    mapped: set[tuple[Inode, int]]
    forked: set[int]
    unknown: bool = False

    def add(self, other: "Happened") -> None:
        """That too."""
        self.mapped |= other.mapped
        self.forked |= other.forked
        self.unknown |= other.unknown


class MappingWatch:
    """Open from the beginning to the end of what is to be told. OSError where we may not watch (CAP_PERFMON)."""

    def __init__(self) -> None:
        self._cpus = read_online_cpus()
        self._rings: list[_Ring] = []
        try:
            for cpu in parse_cpus(self._cpus):
                self._rings.append(_Ring(cpu))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        while self._rings:
            self._rings.pop().close()

    def read(self) -> Happened:
        """What happened since the last call. Threads of one process are no forks; ours are told too."""
        found = Happened(set(), set(), unknown=read_online_cpus() != self._cpus)
        for ring in self._rings:
            parse_records(ring, found)
        return found


def parse_records(ring: "_Ring | bytes", found: Happened) -> None:
    """Add what the records tell."""
    content = ring if isinstance(ring, bytes) else ring.take()
    if len(content) > FULL_BYTES:
        found.unknown = True
    position = 0
    while position + HEADER.size <= len(content):
        kind, _, size = HEADER.unpack_from(content, position)
        if size < HEADER.size:
            found.unknown = True
            return
        body = position + HEADER.size
        if kind == RECORD_MMAP2:
            pid, _, major, minor, inode = MMAP2.unpack_from(content, body)
            if inode:
                found.mapped.add(((os.makedev(major, minor), inode), pid))
        elif kind == RECORD_FORK:
            pid, parent = FORK.unpack_from(content, body)
            if pid != parent:
                found.forked.add(parent)
        elif kind == RECORD_LOST:
            found.unknown = True
        position += size


class _Ring:
    """The records of one CPU."""

    def __init__(self, cpu: int) -> None:
        attributes = bytearray(ATTRIBUTES.pack(
            TYPE_SOFTWARE, ATTRIBUTES.size, COUNT_SW_DUMMY, 0, 0, 0, WATCHED, 0, 0, 0, 0
        ))  # fmt: skip
        fd = syscall("perf_event_open", address_of(attributes), -1, cpu, -1, PERF_FLAG_FD_CLOEXEC)
        try:
            self._memory = mmap.mmap(fd, PAGE + RING_BYTES, mmap.MAP_SHARED)  # keeps the event
        finally:
            os.close(fd)

    def take(self) -> bytes:
        """The records since the last call."""
        head, tail = struct.unpack_from("QQ", self._memory, HEAD)
        start, size = tail % RING_BYTES, head - tail
        first = self._memory[PAGE + start : PAGE + min(start + size, RING_BYTES)]
        rest = self._memory[PAGE : PAGE + size - len(first)]
        struct.pack_into("Q", self._memory, TAIL, head)
        return first + rest

    def close(self) -> None:
        """The event ends too."""
        self._memory.close()


def read_online_cpus() -> str:
    """As the kernel writes it: "0-3,8"."""
    try:
        with open("/sys/devices/system/cpu/online", encoding="ascii") as file:
            return file.read().strip()
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return f"0-{(os.cpu_count() or 1) - 1}"


def parse_cpus(text: str) -> list[int]:
    """Numbers of a list of CPUs. Source: cpuset(7), List format."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.extend(range(int(first), int(last or first) + 1))
    return found
