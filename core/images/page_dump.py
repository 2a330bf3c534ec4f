"""Writes the pages of one process into its images: the new ones read by several threads, the others left to the parent.

Decides nothing about which pages: that is its caller's.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from heapq import merge
from threading import Lock

from core.images.pagemap import PAGE_SIZE, PagemapWriter
from core.memory.pages import BATCH_BYTES, BATCH_SPANS, PageBatch, ReadPageReader
from core.memory.ranges import EMPTY, Ranges

THREADS = os.cpu_count() or 1

Part = tuple[int, Ranges]
"""Pages, and the offset in the pages file where they go, back to back."""


def record_runs(writer: PagemapWriter, pages: Ranges, in_parent: Ranges) -> int:
    """Note which pages come and which ones the parent has. The offset of the first that comes."""
    first = None
    runs = merge(((*span, True) for span in pages), ((*span, False) for span in in_parent))
    for start, end, comes in runs:
        if comes:
            offset = writer.record(start, (end - start) // PAGE_SIZE)
            first = offset if first is None else first
        else:
            writer.in_parent(start, (end - start) // PAGE_SIZE)
    return first or 0


def parts_of(pages: Ranges, offset: int, batch_bytes: int = BATCH_BYTES) -> Iterator[Part]:
    """The pages in pieces that a reader takes at once."""
    for part in pages.split(batch_bytes, BATCH_SPANS):
        yield offset, part
        offset += part.total


def write_pages(pid: int, writer: PagemapWriter, pages: Ranges, in_parent: Ranges = EMPTY) -> Ranges:
    """Read `pages` of `pid` into the pages file. Those that could not be read, which are zero in it, are returned."""
    parts = parts_of(pages, record_runs(writer, pages, in_parent))
    lock = Lock()

    def take() -> Part | None:
        with lock:
            return next(parts, None)

    with ExitStack() as stack:
        count = min(THREADS, -(-pages.total // BATCH_BYTES)) or 1
        readers = [stack.enter_context(ReadPageReader(pid)) for _ in range(count)]
        pool = stack.enter_context(ThreadPoolExecutor(count))
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
