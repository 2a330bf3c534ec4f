"""Writes the pages of one process into its images: the new ones read by several threads, the others left to the parent.

Decides nothing about which pages: that is its caller's.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

from core.images.pagemap import PAGE_SIZE, DumpIds, PagemapWriter
from core.memory.pages import BATCH_BYTES, BATCH_SPANS, PageBatch, PageReader, ReadPageReader
from core.memory.ranges import EMPTY, Ranges
from core.memory.splice import Part, Run, splice_parts

THREADS = os.cpu_count() or 1


def record_runs(writer: PagemapWriter, pages: Ranges, in_parent: Ranges) -> int:
    """Note which pages come and which ones the parent has. The offset of the first that comes."""
    offsets = [writer.record(start, (end - start) // PAGE_SIZE) for start, end in pages]
    for start, end in in_parent:
        writer.in_parent(start, (end - start) // PAGE_SIZE)
    return offsets[0] if offsets else 0


def parts_of(pages: Ranges, offset: int, batch_bytes: int = BATCH_BYTES) -> Iterator[Part]:
    """The pages in pieces that a reader takes at once."""
    for part in pages.split(batch_bytes, BATCH_SPANS):
        yield offset, part
        offset += part.total


class PagesSink(Protocol):
    """Where pages go that do not stay with the other images: a page server."""

    def begin(self, ids: DumpIds) -> None:
        """Say which dump comes. Refused when what is there is no parent of it."""

    def parent_pages(self, id: int) -> Ranges:
        """What the parent that is there has of pagemap `id`."""

    def write(self, id: int, reader: PageReader, pages: Ranges, in_parent: Ranges) -> Ranges:
        """Pagemap `id`: pages to be read, and those that the parent has. Which could not be read."""

    def finish(self) -> None:
        """Return when everything is written there."""


@dataclass(frozen=True, slots=True)
class Lent:
    """A process that stands still and runs our programs: what pages can be spliced out of."""

    pidfd: int
    run: Run


def write_pages(
    pid: int, writer: PagemapWriter, pages: Ranges, in_parent: Ranges = EMPTY, lent: Lent | None = None
) -> Ranges:
    """Pages of `pid` into the pages file, spliced where it is `lent` to us, else read. Those that could not be read,
    which are zero in it, are returned.
    """
    parts = parts_of(pages, record_runs(writer, pages, in_parent))
    if lent is not None:
        parts = iter(list(splice_parts(lent.pidfd, lent.run, parts, writer.store_from_pipe)))  # not in other threads
    return _read_parts(pid, writer, parts, min(THREADS, -(-pages.total // BATCH_BYTES)) or 1)


def _read_parts(pid: int, writer: PagemapWriter, parts: Iterator[Part], threads: int) -> Ranges:
    lock = Lock()

    def take() -> Part | None:
        with lock:
            return next(parts, None)

    with ExitStack() as stack:
        # What a process shares with others since a fork stays shared: it may run on.
        readers = [stack.enter_context(ReadPageReader(pid, keep_shared=True)) for _ in range(threads)]
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        jobs = [pool.submit(_copy_parts, reader, writer, take) for reader in readers]
        for job in jobs:
            job.result()
        return EMPTY.union(*(reader.missing for reader in readers))


def _copy_parts(reader: ReadPageReader, writer: PagemapWriter, take: Callable[[], Part | None]) -> None:
    while (part := take()) is not None:
        offset, ranges = part
        batch = next(reader.batches(ranges), None)
        writer.store(offset, batch.memory if batch and batch.runs == ranges else spread(ranges, batch))


def spread(ranges: Ranges, batch: PageBatch | None) -> bytearray:
    """The pages of `ranges`, zero where the batch has none."""
    memory = bytearray(ranges.total)
    if batch is None:
        return memory
    place = {}
    position = 0
    for start, end in ranges:
        place[start] = (end, position)
        position += end - start
    position = 0
    for start, end in batch.runs:
        outer = max(at for at in place if at <= start)
        to = place[outer][1] + start - outer
        memory[to : to + end - start] = batch.memory[position : position + end - start]
        position += end - start
    return memory
