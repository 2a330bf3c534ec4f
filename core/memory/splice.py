"""Pages out of a borrowed process by way of pipes: it vmsplices them in, we splice them out. Nothing is copied between.

A pipe holds references to pages: all are drained before the process may run on. What it does not take (PROT_NONE, no
room for descriptors) is left over, for a reader that copies.
"""

import os
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Final

from core.kernel.calls import pidfd_getfd
from core.memory.ranges import PAGE_SIZE, Ranges
from core.plan.encode import Steps
from core.plan.ops import Loaded, Out, Pointers, Syscall, Yield
from core.tracee.borrow import Results

PIPE_BYTES: Final = 1 << 20  # what an unprivileged pipe may hold
GROUP: Final = 8  # pipes that are filled while as many are drained
PROGRAM_PARTS: Final = 64
PROGRAM_SPANS: Final = 8192  # iovecs: what fits into a borrowed area with room to spare
F_SETPIPE_SZ: Final = 1031
SPLICE_F_NONBLOCK: Final = 2

THREADS: Final = os.cpu_count() or 1

Part = tuple[int, Ranges]
"""Pages, and the offset where they go, back to back."""
Run = Callable[[Steps, Callable[[Results], None]], None]
"""Runs a program in the process, which stands still; calls back at every Yield."""
Take = Callable[[int, int, int], None]
"""Takes (offset, pages) out of a pipe."""


def splice_parts(pidfd: int, run: Run, parts: Iterator[Part], take: Take) -> Iterator[Part]:
    """Move `parts`, none larger than a pipe, to `take`; those that were left over come back."""
    for batch in _batches(parts):
        yield from _Program(pidfd, batch, take).move(run)


def _batches(parts: Iterator[Part]) -> Iterator[list[Part]]:
    """As many as one program may have."""
    batch: list[Part] = []
    spans = 0
    for part in parts:
        if batch and (len(batch) == PROGRAM_PARTS or spans + len(part[1]) > PROGRAM_SPANS):
            yield batch
            batch, spans = [], 0
        batch.append(part)
        spans += len(part[1])
    if batch:
        yield batch


class _Program:
    """One borrowed program: opens pipes, fills them group by group, closes them, also when we are gone by then.

    The process itself has both ends of every pipe: without us it gets neither SIGPIPE nor stuck.
    """

    def __init__(self, pidfd: int, parts: Sequence[Part], take: Take) -> None:
        self._pidfd = pidfd
        self._parts = parts
        self._take = take
        count = min(2 * GROUP, len(parts))
        self._pipes = [Syscall("pipe2", (Out(8, fill=0xFF), os.O_CLOEXEC), "pipe", may_fail=True) for _ in range(count)]
        self._splices = [self._splice(index) for index in range(len(parts))]
        self._ours: list[int] = []
        self._error: BaseException | None = None
        self._drains: list[list[Future[None]]] = []
        self._left: list[Part] = []

    def _splice(self, index: int) -> Syscall:
        ranges = self._parts[index][1]
        vectors = Pointers(tuple(word for start, end in ranges for word in (start, end - start)))
        end = Loaded(self._pipes[self._slot(index)], 0, 4)
        return Syscall("vmsplice", (end, vectors, len(ranges), SPLICE_F_NONBLOCK), "pages", may_fail=True)

    def _slot(self, index: int) -> int:
        return index // GROUP % 2 * GROUP + index % GROUP

    def _steps(self) -> Iterator[Syscall | Yield]:
        for pipe in self._pipes:
            yield pipe
            yield Syscall("fcntl", (Loaded(pipe, 0, 4), F_SETPIPE_SZ, PIPE_BYTES), "pipe", may_fail=True)
        yield Yield("pipes are open")
        for first in range(0, len(self._parts), GROUP):
            yield from self._splices[first : first + GROUP]
            yield Yield("pipes are full")
        for pipe in self._pipes:
            for offset in (0, 4):
                yield Syscall("close", (Loaded(pipe, 0, offset),), "pipe", may_fail=True)

    def move(self, run: Run) -> list[Part]:
        """All of it; what was left over."""
        with ExitStack() as stack:
            stack.callback(self._close)
            pool = stack.enter_context(ThreadPoolExecutor(THREADS))
            stack.enter_context(_uninterrupted())
            run(tuple(self._steps()), lambda results: self._at_yield(results, pool))
            self._wait(self._drains)
        if self._error is not None:
            raise self._error
        return self._left

    def _at_yield(self, results: Results, pool: ThreadPoolExecutor) -> None:
        """Never raises: the program has to come to its end, where it closes the pipes."""
        try:
            if self._error is not None:
                return
            if self._ours:
                self._drain_group(results, pool)
            else:
                self._ours = [self._read_end(results, pipe) for pipe in self._pipes]
        except BaseException as error:  # noqa: BLE001
            self._error = error

    def _read_end(self, results: Results, pipe: Syscall) -> int:
        if results.value(pipe):
            return -1
        return pidfd_getfd(self._pidfd, struct.unpack("ii", results.out(pipe, 0))[0])

    def _drain_group(self, results: Results, pool: ThreadPoolExecutor) -> None:
        """Drain the group that is full now; before the process goes on, the pipes that it fills next must be empty."""
        first = len(self._drains) * GROUP
        drains = []
        for index in range(first, min(first + GROUP, len(self._parts))):
            moved = max(0, results.value(self._splices[index])) // PAGE_SIZE * PAGE_SIZE
            offset, ranges = self._parts[index]
            if moved:
                pipe = self._ours[self._slot(index)]
                drains.append(pool.submit(self._take, offset, moved // PAGE_SIZE, pipe))
            if moved < ranges.total:
                self._left.append((offset + moved, ranges.subtract(next(ranges.split(moved))) if moved else ranges))
        self._drains.append(drains)
        self._wait(self._drains[-2:-1])

    def _wait(self, groups: list[list[Future[None]]]) -> None:
        for drains in groups:
            for drain in drains:
                drain.result()

    def _close(self) -> None:
        for fd in self._ours:
            if fd >= 0:
                os.close(fd)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits: a program that is not at its end leaves pipes in the process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
