"""Content of a file as pages: read at its offsets, holes left out, and landed in another file at the same offsets.

Speaks the protocols of core.memory.pages and migrate/pagesrv; what the file is, its owner knows.
"""

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from itertools import cycle
from typing import Final

from core.kernel.calls import address_of, syscall
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


class LandingMapping(LandingFile):
    """One that takes no write(2): huge pages. `memory` maps all of it and stays its owner's."""

    def __init__(self, fd: int, memory: mmap.mmap) -> None:
        super().__init__(fd)
        self._memory = memory  # stays mapped as long as anybody lands in it
        with memoryview(memory) as view:
            self._address, self._size = address_of(view), len(view)
        self._page_size = os.fstatvfs(fd).f_bsize

    def land(self, runs: Ranges, memory: Buffer) -> None:
        """See LandingFile: what is zero there already stays as it is, a hole too. ValueError beyond the end."""
        view, offset = memoryview(memory), 0
        for piece in runs.split(self._page_size, 1):
            for start, end in piece:
                content = view[offset : offset + end - start]
                offset += end - start
                if content == bytes(end - start):
                    self.zero(piece)
                else:
                    self._store(start, content)

    def zero(self, runs: Ranges) -> None:
        """See LandingFile: whole huge pages become holes; a part of one is written to only if it is not zero yet."""
        size = self._page_size
        whole = Ranges.of((-(-start // size) * size, end // size * size) for start, end in runs if end - start >= size)
        super().zero(whole)
        for start, end in runs.subtract(whole):
            nothing = bytes(end - start)
            if os.pread(self._fd, end - start, start) != nothing:
                self._store(start, memoryview(nothing))

    def _store(self, start: int, content: memoryview) -> None:
        """Through the kernel: a store of ours that finds no huge page would be SIGBUS."""
        if start + len(content) > self._size:
            raise ValueError("beyond the end")
        ours = struct.pack("QQ", address_of(content), len(content))
        there = struct.pack("QQ", self._address + start, len(content))
        stored = syscall("process_vm_writev", os.getpid(), address_of(ours), 1, address_of(there), 1, 0)
        if stored != len(content):
            raise OSError(errno.ENOMEM, "no huge page is left")
