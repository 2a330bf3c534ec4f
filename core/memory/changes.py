"""Which pages of a process differ from those that a parent's images have: told by their bytes, for want of a tracker.

Slow, and always right.
"""

import os
from collections.abc import Iterator

from core.images.pagemap import PAGE_SIZE, PagemapReader, Run
from core.kernel.pages_file import differing_pages
from core.memory.pages import BATCH_BYTES, ReadPageReader
from core.memory.ranges import Ranges, Span


def pages_of(pagemap: PagemapReader) -> Ranges:
    """All pages that the images have, here or in a parent."""
    return Ranges.ordered((run.address, run.end) for run in pagemap)


def compare_with(pagemap: PagemapReader, pid: int, pages: Ranges) -> Ranges:
    """Those of `pages` (all of them in the images) that have other bytes in `pid` now, or cannot be read there."""
    with ReadPageReader(pid, keep_shared=True) as reader:
        return Ranges.of(span for run, owner in pagemap.resolved() for span in _differing(reader, run, owner, pages))


def _differing(reader: ReadPageReader, run: Run, owner: PagemapReader, pages: Ranges) -> Iterator[Span]:
    wanted = pages.intersect(Ranges(((run.address, run.end),)))
    if not wanted:
        return
    pages_fd = owner.open_pages()
    try:
        for part in wanted.split(BATCH_BYTES, 1):
            [(start, end)] = part
            then = owner.read(run.clipped(start, end), pages_fd)
            batch = next(reader.batches(part), None)
            if batch is None or batch.runs != part:
                yield start, end
                continue
            for index in differing_pages(then, batch.memory):
                yield start + index * PAGE_SIZE, start + (index + 1) * PAGE_SIZE
    finally:
        os.close(pages_fd)
