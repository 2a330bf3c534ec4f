"""Private pages that were dropped (MADV_DONTNEED) and still look as they were: to write-protection they are clean.

Of files' private pages and of huge pages (hugetlb) the mark outlives the page; who only reads there finds the file's
page, or an empty one, that has the mark again. Anonymous memory loses it.
"""

from collections.abc import Sequence
from typing import Final

from core.kernel import pagemap_scan
from core.kernel.hugetlb import HUGE_PAGE
from core.kernel.pagemap_scan import PageCategory, ScanMasks
from core.memory.pages import PageBatch, ReadPageReader
from core.memory.present import private_vmas, spans_of
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.proc.maps import Vma

ZERO: Final = bytes(PAGE_SIZE)
# A page that is swapped out looks the same.
MARKS: Final = ScanMasks(PageCategory.SWAPPED, returned=PageCategory.SWAPPED)


class DroppedPages:
    """Of process `pid`. Remembers of each huge page a piece that was not zero when it was read."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._huge = EMPTY
        self._samples: dict[int, int] = {}  # huge page → page of it

    def note_read(self, batch: PageBatch) -> None:
        """What is in the copy now."""
        if not self._huge:
            return
        for start, memory in batch.pieces():
            for first, last in self._huge.within(start, start + len(memory)):
                for page in range(first // HUGE_PAGE * HUGE_PAGE, last, HUGE_PAGE):
                    piece = max(first, page), min(last, page + HUGE_PAGE)
                    self._note(page, piece[0], memory[piece[0] - start : piece[1] - start])

    def _note(self, page: int, start: int, memory: memoryview) -> None:
        sample = self._samples.get(page)
        if sample is not None and not start <= sample < start + len(memory):
            return
        for offset in range(0, len(memory), PAGE_SIZE):
            if memory[offset : offset + PAGE_SIZE] != ZERO:
                self._samples[page] = start + offset
                return
        self._samples.pop(page, None)

    def look(self, pagemap_fd: int, vmas: Sequence[Vma], exclude: Ranges) -> Ranges:
        """Before the pages are scanned: huge pages that are zero where they were not. What has nothing but a mark is
        read, and so becomes what it is. OSError, TraceeError."""
        private = private_vmas(vmas)
        self._huge = spans_of((vma for vma in private if vma.is_private_huge), exclude)
        marks = pagemap_scan.scan_pages(
            pagemap_fd, spans_of((vma for vma in private if vma.inode), exclude).spans, MARKS
        )
        self._samples = {page: at for page, at in self._samples.items() if self._huge.contains(at)}
        if not marks and not self._samples:
            return EMPTY
        with ReadPageReader(self._pid, keep_shared=True) as reader:
            for _ in reader.batches(Ranges.ordered((start, end) for start, end, _ in marks)):
                pass
            return self._find_emptied(reader)

    def _find_emptied(self, reader: ReadPageReader) -> Ranges:
        wanted = Ranges.from_pages(sorted(at // PAGE_SIZE for at in self._samples.values()))
        emptied = []
        for start, memory in reader.read(wanted):
            for offset in range(0, len(memory), PAGE_SIZE):
                if memory[offset : offset + PAGE_SIZE] == ZERO:
                    page = (start + offset) // HUGE_PAGE * HUGE_PAGE
                    emptied.append((page, page + HUGE_PAGE))
        return Ranges.of(emptied)
