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


def read_facts(tids: Sequence[int]) -> list[ThreadFacts]:
    """Of every one of these threads, in one native call; OSError names the first that cannot be read."""
    array = ffi.new("struct mg_facts[]", len(tids))
    for one, tid in zip(array, tids, strict=True):
        one.tid = tid
    if lib.mg_read_facts(array, len(tids)):
        failed = next(one for one in array if one.error)
        raise OSError(failed.error, f"thread {failed.tid}: scheduling: {os.strerror(failed.error)}")
    content, size = memoryview(ffi.buffer(array)), ffi.sizeof("struct mg_facts")
    return [
        ThreadFacts(
            bytes(content[start + START : start + START + AFFINITY + one.affinity_size]), bool(one.has_io_ports)
        )
        for start, one in zip(range(0, size * len(tids), size), array, strict=True)
    ]
