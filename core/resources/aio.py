"""Contexts of asynchronous I/O (io_setup(2)): collected when idle, with the events that were not read; made anew.

A context is known by the address of its ring, which moves with mremap(2). Of its state the kernel keeps one part to
itself: where the next event goes. So as many requests as the old one had answered, the last time round, are sent to
/dev/null, which answers at once; all but as many as there are events to be read are taken out again. What is left is
overwritten with those. Source: fs/aio.c.
"""

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from core.errors import Blocker, CollectError, ImageError, KernelLacks, Refused
from core.images import kinds
from core.images.flags import VmaStatus
from core.images.pb.memory_pb2 import AioRingEntry, MmEntry
from core.images.store import ImageSet
from core.kernel.aio import (
    COMPATIBLE,
    EVENT_SIZE,
    HEADER,
    LONGEST,
    MAGIC,
    PAGE,
    Context,
    Contexts,
    events_of,
    idle_references,
    length_for,
    open_contexts,
    requests_for,
)
from core.plan.ops import FdAllocator, Loaded, Out, Pointers, Program, Syscall
from core.proc.maps import AIO_RING, Vma

DRAIN_LIMIT_S: Final = 2.0  # how long requests in flight may take to end, while the target stands still
DRAIN_POLL_S: Final = 0.001
LOOKS: Final = 5  # at rings that come and go
PASSING_LIMIT_S: Final = 1.0  # how long a request may wait for something before we say that it may do so for ever
WHAT: Final = "context of io_setup(2)"
HINT: Final = "let it end its asynchronous I/O (io_getevents, io_cancel, io_destroy), and try again"
UNKNOWN_HINT: Final = "BPF and BTF tell it (CONFIG_BPF_SYSCALL, CONFIG_DEBUG_INFO_BTF; no lockdown=confidentiality)"
IOCB: Final = struct.Struct("<QIiHhIQQqQII")  # linux/aio_abi.h
COMMAND_PWRITE: Final = 1
ZEROS_AT: Final = 48  # 16 bytes of an iocb that are zero
AT_FDCWD: Final = (1 << 64) - 100
O_WRONLY_CLOEXEC: Final = 1 | 0o2000000
MREMAP_MAYMOVE_FIXED: Final = 3
FUTEX_CMP_REQUEUE_PRIVATE: Final = 4 | 128
PIECE: Final = 16384
BATCH: Final = 256


def rings(vmas: Sequence[Vma]) -> list[Vma]:
    """The rings among these VMAs."""
    return [vma for vma in vmas if vma.path == AIO_RING]  # there may be thousands, and it is asked in the freeze


def subject_of(id: int) -> str:
    """How messages name a context."""
    return f"{WHAT} at {id:#x}"


def refuse_unknown(vmas: Sequence[Vma]) -> list[Blocker]:
    """Contexts of which nobody can tell here whether they are idle."""
    found = rings(vmas)
    try:
        if found:
            idle_references()
    except KernelLacks as error:
        reason = f"may have requests in flight, which cannot be told here: {error}"
        return [Blocker("aio-unknown", subject_of(vma.start), reason, UNKNOWN_HINT) for vma in found[:1]]
    return []


def refuse_inherited(pid: int, mapped: Callable[[], Sequence[Vma]]) -> list[Blocker]:
    """Rings of a running process without a context, at every look: fork(2) copies the one and not the other.

    `mapped`: what it has now.
    """
    alone: set[int] | None = None
    with open_contexts() as contexts:
        for _ in range(LOOKS):
            there = {vma.start for vma in rings(mapped())}
            try:
                there -= {one.id for one in contexts.read(pid)}
            except OSError:  # it changed, or the process has ended: the freeze looks again
                return []
            alone = there if alone is None else there & alone
            if not alone:
                break
    reason, hint = "is mapped without its context, as after fork(2)", "let the process unmap it, or execute a program"
    return [Blocker("aio-inherited", subject_of(start), reason, hint) for start in sorted(alone or ())]


def refuse_waiting(pid: int) -> list[Blocker]:
    """Contexts of a running process with requests that wait for something to happen, at every look for a second."""
    still: set[int] | None = None
    deadline = time.monotonic() + PASSING_LIMIT_S
    with open_contexts() as contexts:
        while still is None or (still and time.monotonic() < deadline):
            if still is not None:
                time.sleep(DRAIN_POLL_S)
            waiting = {one.id for one in _read_running(contexts, pid) if one.waits}
            still = waiting if still is None else still & waiting
    return [_in_flight(pid, id, waits=True) for id in sorted(still)]


def _read_running(contexts: Contexts, pid: int) -> list[Context]:
    """None where one was destroyed while it was looked at, or the process has ended."""
    try:
        return contexts.read(pid)
    except OSError:
        return []


def _in_flight(pid: int, id: int, *, waits: bool) -> Blocker:
    waiting = "has requests in flight that wait for something to happen (IOCB_CMD_POLL)"
    reason = waiting if waits else f"has requests in flight that did not end within {DRAIN_LIMIT_S:.0f} s"
    return Blocker("aio-in-flight", f"pid {pid}: {subject_of(id)}", reason, HINT)


def count_requests(pid: int, found: Sequence[Vma]) -> int:
    """For how many requests the contexts with these rings will be made; 0 where nobody can tell."""
    if not found:
        return 0
    try:
        with open_contexts() as contexts:
            known = {one.id: one.max_requests for one in _read_running(contexts, pid)}
    except KernelLacks:
        return 0
    return sum(_requests(known.get(vma.start, 0), vma.size) for vma in found)


def _requests(wanted: int, length: int) -> int:
    """What makes a ring of this length where there are few processors too."""
    return max(wanted, requests_for(length))


def refuse_tracking(pid: int) -> Blocker:
    """A process with contexts, or files open past the page cache, whose memory is to be tracked from dump to dump."""
    reason = "has io_setup(2) contexts or files open with O_DIRECT: devices write to its memory, and nobody tracks that"
    return Blocker("direct-io", f"pid {pid}", reason, "dump it without a pre-dump, or move it")


def wait_idle(pids: Sequence[int]) -> dict[int, list[Context]]:
    """Returns when nothing is in flight in any context of these stopped processes; Refused when it does not end."""
    if not pids:
        return {}
    idle, deadline = idle_references(), time.monotonic() + DRAIN_LIMIT_S
    with open_contexts() as contexts:
        while True:
            found = {pid: contexts.read(pid) for pid in pids}
            busy = [(pid, one) for pid, several in found.items() for one in several if one.references != idle]
            if not busy:
                return found
            if time.monotonic() > deadline:
                raise Refused([_in_flight(pid, one.id, waits=one.waits) for pid, one in busy])
            time.sleep(DRAIN_POLL_S)


def collect(
    pid: int, found: Sequence[Vma], contexts: Sequence[Context], read: Callable[[int, int], bytes]
) -> Iterator[AioRingEntry]:
    """Entries of the rings `found` in a stopped process; `read`: its memory."""
    requests = {one.id: one.max_requests for one in contexts}
    for vma in found:
        content = read(vma.start, vma.size)
        if vma.start not in requests or vma.offset or not (vma.readable and vma.writable):
            raise CollectError(f"pid {pid}: {subject_of(vma.start)}", "is not mapped as io_setup(2) does it")
        entry = AioRingEntry(id=vma.start, ring_len=vma.size)
        entry.nr_req = _requests(requests[vma.start], vma.size)
        try:
            read_ring(entry, content)
        except ValueError as error:
            raise CollectError(f"pid {pid}: {subject_of(vma.start)}", str(error)) from error
        yield entry


def read_ring(entry: AioRingEntry, content: bytes) -> None:
    """Head, tail and unread events from a ring's pages. ValueError: it is no ring, or the program has damaged it."""
    _, nr, head, tail, magic, compatible, incompatible, size = HEADER.unpack_from(content)
    if (magic, compatible, incompatible, size) != (MAGIC, COMPATIBLE, 0, HEADER.size) or nr != events_of(len(content)):
        raise ValueError("its ring is of an unknown kind, or damaged")
    entry.head, entry.tail = head % nr, tail % nr
    events = content[HEADER.size : HEADER.size + nr * EVENT_SIZE]
    end = entry.tail if entry.tail >= entry.head else entry.tail + nr
    entry.unread = (events + events)[entry.head * EVENT_SIZE : end * EVENT_SIZE]


def complete(images: ImageSet, read: Callable[[int, int, int], bytes | None]) -> None:
    """Read what CRIU has no field for out of the rings' pages: `read` a task's memory from start to end.

    ImageError when there is no ring.
    """
    for pid in images.ids(kinds.MM):
        for entry in images.one(kinds.MM, pid).aios:
            if not entry.HasField("unread"):
                try:
                    read_ring(entry, read(pid, entry.id, entry.id + entry.ring_len) or b"")
                except (ValueError, struct.error) as error:
                    raise ImageError(kinds.MM.file_name(pid), f"{subject_of(entry.id)}: {error}") from error


def check(mm: MmEntry) -> None:
    """ImageError when the rings make no sense."""
    areas = {(vma.start, vma.end) for vma in mm.vmas if vma.status & VmaStatus.AIORING}
    if areas != {(entry.id, entry.id + entry.ring_len) for entry in mm.aios} or len(areas) != len(mm.aios):
        raise ImageError("mm.img", "its rings of asynchronous I/O are not those among its areas")
    for entry in mm.aios:
        length, nr = entry.ring_len, events_of(entry.ring_len)
        fits = not length % PAGE and not entry.id % PAGE and 0 < length <= LONGEST
        made = fits and requests_for(length) <= entry.nr_req and length_for(entry.nr_req) == length
        if not made or max(entry.head, entry.tail) >= nr:
            raise ImageError("mm.img", f"{subject_of(entry.id)}: its numbers do not fit together")
        if len(entry.unread) != (entry.tail - entry.head) % nr * EVENT_SIZE:
            raise ImageError("mm.img", f"{subject_of(entry.id)}: its unread events are not all there")


def plan(mm: MmEntry, pid: int, fds: FdAllocator) -> Program:
    """Contexts as they were, in the task that calls itself `pid`, where their places are kept."""
    check(mm)
    if not mm.aios:
        return ()
    null = fds.take()
    opened = Syscall("openat", (AT_FDCWD, b"/dev/null\0", O_WRONLY_CLOEXEC, 0), "asynchronous I/O: /dev/null")
    made = [op for entry in mm.aios for op in _plan_ring(entry, pid, null)]
    fds.release(null)
    return (opened, *made, Syscall("close", (null,), "asynchronous I/O: /dev/null"))


def _plan_ring(entry: AioRingEntry, pid: int, null: int) -> Iterator[Syscall]:
    """The kept place serves for a request, an array that points at it again and again, and events, until the ring
    takes it. A batch is small enough for what one processor alone has of the context's requests.
    """
    why, place, nr = subject_of(entry.id), entry.id, events_of(entry.ring_len)
    batch = min(nr // 8, (entry.ring_len - IOCB.size) // (8 + EVENT_SIZE), BATCH)
    events = place + IOCB.size + 8 * batch
    request = IOCB.pack(0, 0, 0, COMMAND_PWRITE, 0, null, place, 1, 0, 0, 0, 0)
    made = Syscall("io_setup", (entry.nr_req, Out(8)), why)
    context = Loaded(made, 1, wide=True)
    yield made
    yield _plan_write(pid, place, request + struct.pack("<Q", place) * batch, f"{why}: a request")
    for count in _batches(entry.head, batch):
        yield Syscall("io_submit", (context, count, place + IOCB.size), f"{why}: events that were read")
        yield Syscall("io_getevents", (context, count, count, events, place + ZEROS_AT), f"{why}: reads them")
    for count in _batches(len(entry.unread) // EVENT_SIZE, batch):
        yield Syscall("io_submit", (context, count, place + IOCB.size), f"{why}: events to be read")
    move = (context, entry.ring_len, entry.ring_len, MREMAP_MAYMOVE_FIXED, place)
    yield Syscall("mremap", move, f"{why}: its ring to its place")
    yield _plan_compare(place + 4, nr, f"{why}: is made with room for {nr} events")
    yield _plan_compare(place + 12, entry.tail, f"{why}: has all its events")
    yield from _plan_events(entry, pid, nr)


def _plan_events(entry: AioRingEntry, pid: int, nr: int) -> Iterator[Syscall]:
    """What was not read, in one or two parts: the ring's end may be in between."""
    first = (nr - entry.head) * EVENT_SIZE
    for begin, part in ((entry.head, entry.unread[:first]), (0, entry.unread[first:])):
        for start in range(0, len(part), PIECE):
            address = entry.id + HEADER.size + begin * EVENT_SIZE + start
            yield _plan_write(pid, address, part[start : start + PIECE], f"{subject_of(entry.id)}: unread events")


def _batches(count: int, batch: int) -> Iterator[int]:
    for start in range(0, count, batch):
        yield min(batch, count - start)


def _plan_write(pid: int, address: int, content: bytes, why: str) -> Syscall:
    """Into its own memory."""
    local, remote = Pointers((content, len(content))), Pointers((address, len(content)))
    return Syscall("process_vm_writev", (pid, local, 1, remote, 1, 0), why)


def _plan_compare(address: int, value: int, why: str) -> Syscall:
    """Fails (EAGAIN) when the 32 bits at `address` are others."""
    return Syscall("futex", (address, FUTEX_CMP_REQUEUE_PRIVATE, 0, 0, address, value), why)
