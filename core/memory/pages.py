"""Page contents out of a running process and into a stopped one; batches in a hot, reused buffer.

Decides nothing about which pages: that is core.memory.present and core.memory.dirty.
"""

import mmap
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType
from typing import Protocol, Self

from core.errors import TraceeError
from core.kernel import process_vm
from core.memory.ranges import EMPTY, Ranges

BATCH_BYTES = 1 << 20
BATCH_SPANS = 1024  # what one process_vm_readv takes


@dataclass(frozen=True, slots=True)
class PageBatch:
    """The pages of `runs`, back to back in `memory`; valid until the reader needs the buffer again."""

    runs: Ranges
    memory: memoryview

    def pieces(self) -> Iterator[tuple[int, memoryview]]:
        """Each run's address and content."""
        offset = 0
        for start, end in self.runs:
            yield start, self.memory[offset : offset + end - start]
            offset += end - start


class PageReader(Protocol):
    """Reads pages; what has gone meanwhile (the target may run on) collects in `missing` and is no error."""

    missing: Ranges

    def batches(self, ranges: Ranges) -> Iterator[PageBatch]:
        """The readable pages of `ranges`, ascending. TraceeError when the process is gone."""

    def read(self, ranges: Ranges) -> Iterator[tuple[int, memoryview]]:
        """The same, one (address, bytes) at a time."""


class ReadPageReader:
    """By process_vm_readv, /proc/PID/mem where that is refused (PROT_NONE). Stops nothing.

    `buffers` is how many batches may be in use at a time (a batch is overwritten that many batches later); `seen` is
    called with every batch as it is handed out. Only pass pages that are there: reading a hole makes it allocate.
    `keep_shared`: by /proc/PID/mem alone, which leaves pages shared that are so since a fork.
    """

    def __init__(
        self,
        pid: int,
        *,
        batch_bytes: int = BATCH_BYTES,
        buffers: int = 1,
        seen: Callable[[PageBatch], None] | None = None,
        keep_shared: bool = False,
    ) -> None:
        self.missing = EMPTY
        self._seen = seen
        self._pid = pid
        self.keep_shared = keep_shared
        self._mem_fd = _open_mem(pid, write=False)
        self._batch_bytes = batch_bytes
        buffers_made = [
            memoryview(mmap.mmap(-1, batch_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) for _ in range(buffers)
        ]
        self._next_buffer = cycle(buffers_made)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the descriptor back; batches already handed out stay readable."""
        if self._mem_fd >= 0:
            os.close(self._mem_fd)
        self._mem_fd = -1

    def batches(self, ranges: Ranges) -> Iterator[PageBatch]:
        """See PageReader."""
        for part in ranges.split(self._batch_bytes, BATCH_SPANS):
            batch = self._read_part(part, next(self._next_buffer))
            if not batch.runs:
                continue
            if self._seen is not None:
                self._seen(batch)
            yield batch

    def read(self, ranges: Ranges) -> Iterator[tuple[int, memoryview]]:
        """See PageReader."""
        for batch in self.batches(ranges):
            yield from batch.pieces()

    def _read_part(self, part: Ranges, buffer: memoryview) -> PageBatch:
        pid = 0 if self.keep_shared else self._pid
        try:
            size, gone = process_vm.read_spans(pid, self._mem_fd, part.spans, buffer)
        except OSError as error:
            raise TraceeError(self._pid, f"cannot read memory: {error.strerror}") from error
        if not gone:
            return PageBatch(part, buffer[:size])
        missing = Ranges.ordered(gone)
        self.missing = self.missing.union(missing)
        return PageBatch(part.subtract(missing), buffer[:size])


def drop_zero(batch: PageBatch) -> tuple[PageBatch, Ranges]:
    """Take the all-zero pages out of a batch (in place): what is left, and where the zero pages were."""
    size, kept, zero = process_vm.drop_zero_pages(batch.memory, batch.runs.spans)
    if not zero:
        return batch, EMPTY
    return PageBatch(Ranges.ordered(kept), batch.memory[:size]), Ranges.ordered(zero)


def open_landing(pid: int) -> int:
    """The /proc/PID/mem descriptor that `land` and `land_zero` write to."""
    return _open_mem(pid, write=True)


def land(mem_fd: int, runs: Ranges, memory: process_vm.Buffer) -> None:
    """Write `memory` (pages back to back) to the runs, whatever their protection (private mappings). OSError."""
    process_vm.write_spans(mem_fd, runs.spans, memory)


def land_zero(mem_fd: int, runs: Ranges) -> None:
    """Write zeros to the runs. OSError."""
    process_vm.zero_spans(mem_fd, runs.spans)


def _open_mem(pid: int, *, write: bool) -> int:
    try:
        return process_vm.open_mem(pid, write=write)
    except OSError as error:
        raise TraceeError(pid, f"cannot open its memory: {error.strerror}") from error
