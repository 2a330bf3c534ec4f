"""Content of a file as pages: read at its offsets, holes left out, and landed in another file at the same offsets.

Speaks the protocols of core.memory.pages and migrate/pagesrv; what the file is, its owner knows.
"""

import errno
import mmap
import os
from collections.abc import Iterator
from itertools import cycle
from typing import Final

from core.kernel.calls import syscall
from core.kernel.process_vm import Buffer
from core.memory.pages import BATCH_BYTES, BATCH_SPANS, PageBatch
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges

PUNCH_HOLE_KEEP_SIZE: Final = 3


def page_span(size: int) -> Ranges:
    """All pages of a file of `size` bytes."""
    return Ranges.of([(0, -(-size // PAGE_SIZE) * PAGE_SIZE)]) if size else EMPTY


def data_ranges(fd: int) -> Ranges:
    """The pages of a file that are no holes, as far as its file system tells. Source: lseek(2), SEEK_DATA."""
    size = os.fstat(fd).st_size
    spans, position = [], 0
    while position < size:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break
            raise
        position = os.lseek(fd, start, os.SEEK_HOLE)
        spans.append((start // PAGE_SIZE * PAGE_SIZE, -(-position // PAGE_SIZE) * PAGE_SIZE))
    return Ranges.of(spans)


class FilePageReader:
    """A PageReader over a file: addresses are offsets, what is beyond its end reads as zero. `fd` stays its owner's.

    `fd` must not share its position with anybody who minds: data_ranges moves it.
    """

    def __init__(self, fd: int, *, buffers: int = 1) -> None:
        self.missing = EMPTY
        self._fd = fd
        made = [memoryview(mmap.mmap(-1, BATCH_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) for _ in range(buffers)]
        self._next_buffer = cycle(made)

    def batches(self, ranges: Ranges) -> Iterator[PageBatch]:
        """See PageReader."""
        for part in ranges.split(BATCH_BYTES, BATCH_SPANS):
            buffer = next(self._next_buffer)
            offset = 0
            for start, end in part:
                self._read(buffer[offset : offset + end - start], start)
                offset += end - start
            yield PageBatch(part, buffer[:offset])

    def _read(self, memory: memoryview, start: int) -> None:
        done = 0
        while done < len(memory):
            count = os.preadv(self._fd, [memory[done:]], start + done)
            if not count:
                memory[done:] = bytes(len(memory) - done)
                return
            done += count

    def read(self, ranges: Ranges) -> Iterator[tuple[int, memoryview]]:
        """See PageReader."""
        for batch in self.batches(ranges):
            yield from batch.pieces()


class LandingFile:
    """A file that pages land in. `fd` stays its owner's; its size may exceed the source's by less than a page."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def land(self, runs: Ranges, memory: Buffer) -> None:
        """Write the runs' pages, back to back in `memory`. OSError."""
        view, offset = memoryview(memory), 0
        for start, end in runs:
            while start < end:
                written = os.pwrite(self._fd, view[offset : offset + end - start], start)
                start, offset = start + written, offset + written

    def zero(self, runs: Ranges) -> None:
        """Holes, where the file system has them. OSError."""
        for start, end in runs:
            try:
                syscall("fallocate", self._fd, PUNCH_HOLE_KEEP_SIZE, start, end - start)
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:
                    raise
                for position in range(start, end, BATCH_BYTES):
                    os.pwrite(self._fd, bytes(min(BATCH_BYTES, end - position)), position)
