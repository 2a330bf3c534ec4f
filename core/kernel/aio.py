"""Contexts of io_setup(2): their rings' format, and how many requests of each are in flight.

Nothing in user space tells of requests in flight: a ring holds completed ones alone. Sending further ones until the
context is full would tell, but leaves events in the ring of a program that would meet them if we died. The kernel's own
count is exact: each request holds a reference of its context (struct kioctx, reqs) from io_submit(2) until its event is
in the ring. It is read by BPF (kernel_memory.py), and what an idle context has is learned from one of our own.
Measured with Linux 6.18: 0.15 s for the layout of the structs, once; then 0.1 ms per process.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Final

from core.errors import KernelLacks
from core.kernel.calls import address_of, syscall
from core.kernel.kernel_memory import LIMIT, KernelMemory, open_kernel_memory

HEADER: Final = struct.Struct("<8I")  # id, nr, head, tail, magic, compatible and other features, its own size
MAGIC, COMPATIBLE = 0xA10A10A1, 1
EVENT_SIZE: Final = 32
PAGE: Final = 4096
LONGEST: Final = 0x10000000  # bytes of events: more the kernel refuses
CONTEXT: Final = (
    ("mm_struct", ("ioctx_table",)),
    ("kioctx_table", ("nr", "table")),
    ("kioctx", ("user_id", "reqs", "max_reqs", "active_reqs")),
    ("percpu_ref", ("percpu_count_ptr", "data")),
    ("percpu_ref_data", ("count",)),
)
MOST: Final = 1 << 20  # contexts: more than a host has for all (fs.aio-max-nr)
MANY: Final = 8  # more references than a context has for itself
NOT_PER_CPU: Final = 3  # flags in percpu_count_ptr
BIAS: Final = 1 << 63  # of the count while the rest of it is per CPU


def events_of(length: int) -> int:
    """How many events a ring of `length` bytes has room for. Source: aio_setup_ring in fs/aio.c."""
    return (length - HEADER.size) // EVENT_SIZE


def requests_for(length: int) -> int:
    """The least that io_setup(2) makes such a ring of where there are few processors."""
    return max(1, 64 * (length // PAGE - 1) - 1)


def length_for(requests: int) -> int:
    """Bytes of the ring that io_setup(2) makes where there are few processors."""
    return -(-(HEADER.size + EVENT_SIZE * (2 * requests + 2)) // PAGE) * PAGE


@dataclass(frozen=True, slots=True)
class Context:
    """What the kernel knows of one. `waits`: some of its requests wait for something to happen (IOCB_CMD_POLL)."""

    id: int
    max_requests: int
    references: int
    waits: bool


class Contexts:
    """Tells of the contexts of any process; see open_contexts()."""

    def __init__(self, memory: KernelMemory) -> None:
        self._memory = memory

    def read(self, pid: int) -> list[Context]:
        """All that a process has."""
        memory = self._memory
        descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            table = memory.field(memory.private_data(descriptor), "mm_struct", "ioctx_table")
            if not table:
                return []
            count = memory.field(table, "kioctx_table", "nr") & 0xFFFFFFFF
            first = table + memory.offsets["kioctx_table"]["table"]
            if count > MOST:  # it changed while it was read
                raise InterruptedError
            places = [memory.word(first + 8 * index) for index in range(count)]
            return [self._context(place) for place in places if place]
        finally:
            os.close(descriptor)

    def _context(self, place: int) -> Context:
        memory = self._memory
        of_requests = place + memory.offsets["kioctx"]["reqs"]
        references = memory.field(memory.field(of_requests, "percpu_ref", "data"), "percpu_ref_data", "count")
        per_cpu = memory.field(of_requests, "percpu_ref", "percpu_count_ptr")
        if not per_cpu & NOT_PER_CPU:
            references = (references - BIAS + memory.sum_per_cpu(per_cpu)) % LIMIT
        waiting = place + memory.offsets["kioctx"]["active_reqs"]
        return Context(
            memory.field(place, "kioctx", "user_id"),
            memory.field(place, "kioctx", "max_reqs") & 0xFFFFFFFF,
            references,
            memory.word(waiting) != waiting,
        )


@contextmanager
def open_contexts() -> Iterator[Contexts]:
    """For the time of a with block. KernelLacks: they cannot be looked at here."""
    with open_kernel_memory(*CONTEXT) as memory:
        yield Contexts(memory)


@cache
def idle_references() -> int:
    """References of a context that has nothing in flight: whatever was sent to it has its event in the ring.

    KernelLacks: it cannot be told here. The first answer takes a third of a second.
    """
    try:
        with open_contexts() as contexts, _own_context() as id:
            mine = [one for one in contexts.read(os.getpid()) if one.id == id]
    except OSError as error:
        raise KernelLacks("contexts of io_setup(2)", f"cannot be looked at: {error.strerror}") from error
    if len(mine) != 1 or not 0 < mine[0].references < MANY or mine[0].waits or mine[0].max_requests != 1:
        raise KernelLacks("contexts of io_setup(2)", "this kernel keeps them in another way than is known here")
    return mine[0].references


@contextmanager
def _own_context() -> Iterator[int]:
    id = bytearray(8)
    syscall("io_setup", 1, address_of(id))
    try:
        yield int.from_bytes(id, "little")
    finally:
        syscall("io_destroy", int.from_bytes(id, "little"))


@cache
def shortest_ring() -> int:
    """Bytes of the smallest ring that this kernel makes, which depends on its processors; 0: it has none."""
    try:
        with _own_context() as id:
            with open("/proc/self/mem", "rb", buffering=0) as memory:
                nr = HEADER.unpack(os.pread(memory.fileno(), HEADER.size, id))[1]
            return int(nr) * EVENT_SIZE + HEADER.size
    except OSError:
        return 0


def free_requests() -> int:
    """How many requests contexts can still be made for on this host (fs.aio-max-nr)."""
    try:
        numbers = []
        for name in ("aio-max-nr", "aio-nr"):
            with open(f"/proc/sys/fs/{name}", encoding="ascii") as file:
                numbers.append(int(file.read()))
        return max(0, numbers[0] - numbers[1])
    except (OSError, ValueError):
        return 0
