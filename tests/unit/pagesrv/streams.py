"""A page stream without a process: pages from a dictionary, frames into a pipe's file, landings on record."""

from collections.abc import Iterator

from core.kernel.process_vm import Buffer
from core.memory.pages import PageBatch
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges


class FakeReader:
    """A PageReader of `pages` (address → 4096 bytes); what it does not have is missing."""

    def __init__(self, pages: dict[int, bytes], batch_bytes: int = 4 * PAGE_SIZE) -> None:
        self.missing = EMPTY
        self.pages = pages
        self._batch_bytes = batch_bytes

    def batches(self, ranges: Ranges) -> Iterator[PageBatch]:
        there = Ranges.from_pages(address // PAGE_SIZE for address in self.pages)
        self.missing = ranges.subtract(there)
        for part in ranges.intersect(there).split(self._batch_bytes):
            content = b"".join(self.pages[page * PAGE_SIZE] for page in part.pages())
            yield PageBatch(part, memoryview(bytearray(content)))

    def read(self, ranges: Ranges) -> Iterator[tuple[int, memoryview]]:
        raise NotImplementedError


class RecordedLanding:
    """What landed: (mm_id, address) → page."""

    def __init__(self) -> None:
        self.pages: dict[tuple[int, int], bytes] = {}

    def land(self, mm_id: int, runs: Ranges, memory: Buffer) -> None:
        for index, page in enumerate(runs.pages()):
            self.pages[mm_id, page * PAGE_SIZE] = bytes(memory[index * PAGE_SIZE : (index + 1) * PAGE_SIZE])

    def zero(self, mm_id: int, runs: Ranges) -> None:
        for page in runs.pages():
            self.pages[mm_id, page * PAGE_SIZE] = bytes(PAGE_SIZE)
