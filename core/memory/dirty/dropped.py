"""Private pages that were dropped (MADV_DONTNEED) and still look as they were: to write-protection they are clean.

Of files' private pages and of huge pages (hugetlb) the mark outlives the page; who only reads in a huge page then finds
an empty one that has the mark again. Anonymous memory loses it.
"""

from collections.abc import Sequence
from typing import Final

from core.kernel import pagemap_scan
from core.kernel.hugetlb import HUGE_PAGE
from core.kernel.pagemap_scan import PageCategory, ScanMasks
from core.memory.pages import PageBatch, ReadPageReader
from core.memory.present import THERE, spans_of
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.proc.maps import Vma

ZERO: Final = bytes(PAGE_SIZE)
BLOCK: Final = 1 << 20
# What is swapped out looks the same.
MARKS: Final = ScanMasks(PageCategory.SWAPPED, returned=PageCategory.SWAPPED)
ANYTHING: Final = ScanMasks(any_of=THERE, returned=THERE)


class DroppedPages:
    """Of process `pid`. Remembers which private pages of files were told, and of each block of a huge page one page
    that was not zero when it was read."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._huge = self._files = self._told = EMPTY
        self._looked_at: Sequence[Vma] = ()
        self._samples: dict[int, int] = {}  # block → page of it

    @property
    def reads_pages(self) -> bool:
        """Whether look() does, and needs its descriptor."""
        return bool(self._samples)

    def note_told(self, carried: Ranges) -> None:
        """What is in the copy from now on, or will be."""
        self._told = self._told.union(carried.intersect(self._files))

    def note_read(self, batch: PageBatch) -> None:
        """What is in the copy now."""
        if not self._huge:
            return
        for start, memory in batch.pieces():
            for first, last in self._huge.within(start, start + len(memory)):
                for block in range(first // BLOCK * BLOCK, last, BLOCK):
                    begin, end = max(first, block), min(last, block + BLOCK)
                    self._note(block, begin, memory[begin - start : end - start])

    def _note(self, block: int, start: int, memory: memoryview) -> None:
        for offset in range(0, len(memory), PAGE_SIZE):
            if bytes(memory[offset : offset + PAGE_SIZE]) != ZERO:
                self._samples[block] = start + offset
                return
        if start <= self._samples.get(block, -1) < start + len(memory):
            del self._samples[block]

    def look(self, pagemap_fd: int, private: Sequence[Vma], exclude: Ranges, swapped: Ranges | None = None) -> Ranges:
        """What of these VMAs has to go over again: what was told of files and has nothing but a mark, or is swapped
        out; huge pages that are zero where they were not, or cannot be read there. OSError, TraceeError.

        `swapped`: all of them that look so, when that is known.
        """
        if private is not self._looked_at:
            behind = [vma for vma in private if vma.inode]
            self._huge = spans_of((vma for vma in behind if vma.is_private_huge), exclude)
            self._files = spans_of((vma for vma in behind if not vma.is_private_huge), exclude)
            self._told = self._told.intersect(self._files)
            self._looked_at = private
        if swapped is None:
            marks = pagemap_scan.scan_pages(pagemap_fd, self._told.spans, MARKS)
            swapped = Ranges.ordered((start, end) for start, end, _ in marks)
        again = swapped.intersect(self._told)
        return again.union(self._find_emptied(pagemap_fd)) if self._samples else again

    def _find_emptied(self, pagemap_fd: int) -> Ranges:
        """To look where nothing is at all would make the process have a page there."""
        found = pagemap_scan.scan_pages(pagemap_fd, self._huge.spans, ANYTHING)
        there = Ranges.ordered((start, end) for start, end, _ in found)
        self._samples = {block: page for block, page in self._samples.items() if there.contains(page)}
        emptied = []
        with ReadPageReader(self._pid, keep_shared=True) as reader:
            wanted = Ranges.from_pages(sorted(page // PAGE_SIZE for page in self._samples.values()))
            for start, memory in reader.read(wanted):
                for offset in range(0, len(memory), PAGE_SIZE):
                    if bytes(memory[offset : offset + PAGE_SIZE]) == ZERO:
                        emptied.append((start + offset) // PAGE_SIZE)
            return Ranges.from_pages(emptied).union(reader.missing).widened(HUGE_PAGE)
