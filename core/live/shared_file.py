"""A file that tasks of a live source share memory through: which of its pages have changed since they went over.

A page has changed when a task stored to it, as its tracker tells. Where stores may have been missed its content is
compared with what went over.
"""

import logging
import os
import time
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Final

from core.kernel import process_vm
from core.memory.dirty import SharedWrites
from core.memory.dirty.hashes import PageHashes
from core.memory.file_pages import FilePageReader, data_ranges, page_span
from core.memory.pages import PageBatch
from core.memory.ranges import EMPTY, Ranges
from core.memory.witness import PageWitness
from core.proc.maps import Vma

SETTLED_NS: Final = 100_000_000  # file times have the grain of the timer tick: what changed later may look unchanged
WORTH_TELLING: Final = 64 << 20  # bytes that are compared
PART: Final = 32 << 20  # bytes that one thread compares
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Stores:
    """What all mappers of one file tell, by its offsets."""

    written: Ranges = EMPTY
    unknown: Ranges = EMPTY
    watched: dict[tuple[int, int], Ranges] = field(default_factory=dict)  # addresses, by pid and address of offset 0
    hides_removals: bool = False

    @property
    def pids(self) -> set[int]:
        """Who maps it."""
        return {pid for pid, _ in self.watched}

    def add(self, pid: int, vma: Vma, writes: SharedWrites) -> None:
        """What one VMA tells."""
        here, base = Ranges(((vma.start, vma.end),)), vma.start - vma.offset
        self.written = self.written.union(writes.written.intersect(here).moved(-base))
        self.unknown = self.unknown.union(writes.unknown.intersect(here).moved(-base))
        known = self.watched.get((pid, base), EMPTY)
        self.watched[pid, base] = known.union(writes.watched.intersect(here))
        self.hides_removals |= writes.hides_removals

    def gone_since(self, before: "Stores") -> Ranges:
        """Offsets that were watched then in places that are not now."""
        return EMPTY.union(*(
            places.subtract(self.watched.get(key, EMPTY)).moved(-key[1]) for key, places in before.watched.items()
        ))  # fmt: skip


class FileTimes:
    """Tells whether a file's size or times have changed since the look before."""

    def __init__(self) -> None:
        self._known: tuple[int, int, int] | None = None  # once they are old enough to tell
        self._last: tuple[int, int, int] | None = None
        self.moved = False  # they are others than at the look before

    def changed(self, fd: int) -> bool:
        """True at the first look."""
        found = os.fstat(fd)
        times = found.st_size, found.st_mtime_ns, found.st_ctime_ns
        same = times == self._known
        self.moved, self._last = self._last not in (None, times), times
        self._known = times if time.time_ns() - max(times[1:]) > SETTLED_NS else None
        return not same


class SharedFile:
    """One of them: `pending` has to go over, `holes` has to go from over there. A PageReader of its own pages.

    `fd` is for reading and stays its owner's.
    """

    def __init__(self, fd: int, name: str, memory_id: int, key: "array[int]") -> None:
        self.fd = fd
        self.name = name
        self.memory_id = memory_id  # its number in the page stream
        self.pending = EMPTY
        self.holes = EMPTY
        self.data = EMPTY  # no holes, at the last look
        self.doubt = ""  # why all of it was compared at the last look
        self.compared_s = 0.0  # what comparing took at the last look
        self.missing = EMPTY  # what is not there any more reads as zero
        self.stores = Stores()  # at the last look
        self._sent = EMPTY
        self._unknown = self._again = EMPTY  # what was compared at the last look; what will be at the next
        self._key = key
        self._copied = PageHashes()  # of the pages as they went over
        self._witness: PageWitness | None = None
        self._has_looked = self._told = False
        self._buffers = 1

    @property
    def size(self) -> int:
        """Bytes."""
        return os.fstat(self.fd).st_size

    def find_changed(self, stores: Stores, doubt: str, *, last: bool) -> None:
        """Which of its pages have changed. `doubt`: why there may be stores that nobody tells of; `last`: nothing runs
        any more."""
        self.doubt = doubt
        if not last and stores.hides_removals:
            self._need_witness()
        removed = self._removed() if stores.hides_removals else EMPTY
        unknown = stores.unknown.union(stores.gone_since(self.stores), removed, self._again)
        if doubt and self._sent:
            unknown = page_span(self.size)
            self._tell()
        self.data = self._find_data(stores.written, unknown, last=last and self._has_looked and not doubt)
        if not last and self._witness is not None:
            self._witness.meet(self.data, removed)
        self.stores, self._has_looked, self._unknown, self._again = stores, True, unknown, EMPTY
        self.holes = self.holes.union(self._sent).subtract(self.data)
        self._sent = self._sent.subtract(self.holes)
        there = self._sent.subtract(self.pending)
        differing = self._compare(unknown.intersect(there).subtract(stores.written))
        changed = self.pending.union(stores.written.intersect(there), differing)
        self.pending = self.data.intersect(changed).union(self.data.subtract(self._sent))

    def distrust(self) -> None:
        """What the last look told, or found to be the same, may change once more, of which no look will tell."""
        self._again = self.pending.union(self._unknown)

    def _find_data(self, written: Ranges, unknown: Ranges, *, last: bool) -> Ranges:
        """To ask for all holes takes tens of milliseconds per GiB. In the last look nothing but what was stored to can
        be new, and what has become a hole differs from what went over."""
        everything = page_span(self.size)
        if last and not unknown.intersect(everything).subtract(self._sent):
            return self.data.union(written).intersect(everything)
        return data_ranges(self.fd)

    def _need_witness(self) -> None:
        """A new one knows of no page yet: then all are compared."""
        size = self.size
        if self._witness is not None and self._witness.size >= size:
            return
        self.close()
        with suppress(OSError):
            self._witness = PageWitness(self.fd, size) if size else None

    def _removed(self) -> Ranges:
        """What was taken out of the file since it was met, or was never met."""
        return self._sent.subtract(self._witness.keeps(self._sent)) if self._witness is not None else self._sent

    def _tell(self) -> None:
        if not self._told and self.size >= WORTH_TELLING:
            self._told = True
            log.warning("%s: all of it is compared with what went over: %s", self.name, self.doubt)

    def _compare(self, pages: Ranges) -> Ranges:
        began = time.monotonic()
        parts = list(pages.split(PART))
        with ThreadPoolExecutor(os.cpu_count()) if len(parts) > 1 else nullcontext() as pool:
            found = (pool.map if pool else map)(lambda part: list(self._differing(part)), parts)
            differing = Ranges.ordered(span for spans in found for span in spans)
        self.compared_s = time.monotonic() - began
        return differing

    def _differing(self, pages: Ranges) -> Iterator[tuple[int, int]]:
        for batch in FilePageReader(self.fd).batches(pages):
            yield from self._copied.differing(batch.runs, process_vm.hash_pages(batch.memory, self._key))

    def buffers(self, count: int) -> "SharedFile":
        """Itself, reading into that many buffers in turn."""
        self._buffers = count
        return self

    def batches(self, ranges: Ranges) -> Iterator[PageBatch]:
        """See PageReader; what is handed out counts as being over there."""
        for batch in FilePageReader(self.fd, buffers=self._buffers).batches(ranges):
            self._copied.store(batch.runs, process_vm.hash_pages(batch.memory, self._key))
            yield batch

    def read(self, ranges: Ranges) -> Iterator[tuple[int, memoryview]]:
        """See PageReader."""
        for batch in self.batches(ranges):
            yield from batch.pieces()

    def was_sent(self) -> None:
        """What was pending is over there, and the holes are holes."""
        self._sent = self._sent.union(self.pending)
        self.pending = self.holes = EMPTY

    def close(self) -> None:
        """Let go of our mapping of it."""
        witness, self._witness = self._witness, None
        if witness is not None:
            witness.close()
