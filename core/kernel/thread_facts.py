"""What is asked of stopped threads by tid, from outside: how they are scheduled, and whether they have I/O ports."""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from core.native._kernel import ffi, lib

LAYOUT: Final = struct.Struct("<4i8x4Q")
START: Final = int(ffi.offsetof("struct mg_facts", "policy"))
AFFINITY: Final = int(ffi.offsetof("struct mg_facts", "affinity")) - START


@dataclass(frozen=True, slots=True)
class ThreadFacts:
    """One thread. `scheduling`: all of that as bytes, equal where it is scheduled alike."""

    scheduling: bytes
    has_io_ports: bool


@dataclass(frozen=True, slots=True)
class Scheduling:
    """Policy as of sched_getscheduler(2), times in nanoseconds, affinity: the kernel's mask, little-endian bytes."""

    affinity: bytes
    policy: int
    nice: int
    priority: int
    io_priority: int
    flags: int
    runtime_ns: int
    deadline_ns: int
    period_ns: int


def parse_scheduling(content: bytes) -> Scheduling:
    """What `ThreadFacts.scheduling` says."""
    return Scheduling(content[AFFINITY:].rstrip(b"\0"), *LAYOUT.unpack_from(content))


class AllFacts:
    """Those of many threads, in one native call; OSError names the first that cannot be read."""

    def __init__(self, tids: Sequence[int]) -> None:
        self.array = ffi.new("struct mg_facts[]", len(tids))
        if lib.mg_read_facts(ffi.new("int[]", tids), len(tids), self.array):
            failed = next(one for one in self.array if one.error)
            raise OSError(failed.error, f"thread {failed.tid}: scheduling: {os.strerror(failed.error)}")

    def of(self, index: int) -> ThreadFacts:
        """Those of one of them."""
        one = self.array[index]
        content = ffi.buffer(ffi.addressof(one))
        return ThreadFacts(content[START : START + AFFINITY + one.affinity_size], bool(one.has_io_ports))


def read_facts(tids: Sequence[int]) -> list[ThreadFacts]:
    """Of every one of these threads; OSError names the first that cannot be read."""
    facts = AllFacts(tids)
    return [facts.of(index) for index in range(len(tids))]
