"""One piece of shared memory of a live source: which of its pages have changed since they went over.

A page has changed when a task stored to it, as its tracker tells. Where stores may have been missed its content is
compared with what went over.
"""

import fcntl
import logging
import os
import time
from array import array
from collections.abc import Iterator
from contextlib import suppress
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
from core.resources.shared_memory import F_GET_SEALS, Segment

SEALED: Final = 0x8 | 0x10  # F_SEAL_WRITE, F_SEAL_FUTURE_WRITE
SETTLED_NS: Final = 100_000_000  # file times have the grain of the timer tick: what changed later may look unchanged
WORTH_TELLING: Final = 64 << 20  # bytes that are compared
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


class SharedSegment:
    """One of them: `pending` has to go over, `sent` is over there. A PageReader of its own pages."""

    def __init__(self, segment: Segment, key: "array[int]") -> None:
        self.segment = segment
        self.pending = EMPTY
        self.sent = EMPTY
        self.data = EMPTY  # no holes, at the last look
        self.doubt = ""  # why all of it was compared at the last look
        self.missing = EMPTY  # what is not there any more reads as zero
        self._lost = EMPTY  # went over and was a hole later
        self._key = key
        self._copied = PageHashes()  # of the pages as they went over
        self._stores = Stores()
        self._witness: PageWitness | None = None
        self._times: tuple[int, int, int] | None = None  # size and times, once they are old enough to tell
        self._has_looked = self._told = False
        self._writable = self._was_writable = False  # open for writing at the last look; at the one before
        self._buffers = 1

    @property
    def id(self) -> int:
        """Its number on the way."""
        return self.segment.id

    @property
    def pids(self) -> set[int]:
        """Who mapped it at the last look."""
        return self._stores.pids

    def note_open(self, writable: bool) -> None:
        """Before each look but the last: whether some task has it open for writing."""
        self._writable, self._was_writable = writable, self._writable

    def look(self, stores: Stores, doubt: str, *, last: bool) -> None:
        """Which of its pages have changed. `doubt`: why there may be stores that nobody tells of."""
        self.doubt = doubt = doubt or self._written_as_file()
        if not last and stores.hides_removals:
            self._need_witness()
        removed = self._removed() if stores.hides_removals else EMPTY
        unknown = stores.unknown.union(stores.gone_since(self._stores), removed)
        if doubt and self.sent:
            unknown = page_span(self.segment.size)
            self._tell(doubt)
        self.data = self._find_data(stores.written, unknown, last=last and self._has_looked)
        if not last and self._witness is not None:
            self._witness.meet(self.data, removed)
        self._stores, self._has_looked = stores, True
        holes = self.sent.subtract(self.data)
        self.sent, self._lost = self.sent.subtract(holes), self._lost.union(holes)
        there = self.sent.subtract(self.pending)
        compared = Ranges.ordered(self._differing(unknown.intersect(there).subtract(stores.written)))
        changed = self.pending.union(stores.written.intersect(there), compared)
        self.pending = self.data.intersect(changed).union(self.data.subtract(self.sent))

    def _find_data(self, written: Ranges, unknown: Ranges, *, last: bool) -> Ranges:
        """To ask for all holes takes tens of milliseconds per GiB. In the last look nothing but what was stored to can
        be new, and what has become a hole differs from what went over."""
        everything = page_span(self.segment.size)
        if last and not unknown.intersect(everything).subtract(self.sent):
            return self.data.union(written).intersect(everything)
        return data_ranges(self.segment.fd)

    def _need_witness(self) -> None:
        """A new one knows of no page yet: then all are compared."""
        size = self.segment.size
        if self._witness is not None and self._witness.size >= size:
            return
        self.close()
        with suppress(OSError):
            self._witness = PageWitness(self.segment.fd, size) if size else None

    def _removed(self) -> Ranges:
        """What was taken out of the file since it was met, or was never met."""
        return self.sent.subtract(self._witness.keeps(self.sent)) if self._witness is not None else self.sent

    def _written_as_file(self) -> str:
        """Why it may have been written to otherwise than through mappings: its times, which stores change too."""
        found = os.fstat(self.segment.fd)
        times = found.st_size, found.st_mtime_ns, found.st_ctime_ns
        same = times == self._times
        self._times = times if time.time_ns() - max(times[1:]) > SETTLED_NS else None
        if same or not (self._writable or self._was_writable) or fcntl.fcntl(self.segment.fd, F_GET_SEALS) & SEALED:
            return ""
        return "it is open for writing, and was written to one way or another"

    def _tell(self, doubt: str) -> None:
        if not self._told and self.segment.size >= WORTH_TELLING:
            self._told = True
            log.warning("%s: all of it is compared with what went over: %s", self.segment.link, doubt)

    def _differing(self, pages: Ranges) -> Iterator[tuple[int, int]]:
        for batch in FilePageReader(self.segment.fd).batches(pages):
            yield from self._copied.differing(batch.runs, process_vm.hash_pages(batch.memory, self._key))

    def buffers(self, count: int) -> "SharedSegment":
        """Itself, reading into that many buffers in turn."""
        self._buffers = count
        return self

    def batches(self, ranges: Ranges) -> Iterator[PageBatch]:
        """See PageReader; what is handed out counts as being over there."""
        for batch in FilePageReader(self.segment.fd, buffers=self._buffers).batches(ranges):
            self._copied.store(batch.runs, process_vm.hash_pages(batch.memory, self._key))
            yield batch

    def read(self, ranges: Ranges) -> Iterator[tuple[int, memoryview]]:
        """See PageReader."""
        for batch in self.batches(ranges):
            offset = 0
            for start, end in batch.runs:
                yield start, batch.memory[offset : offset + end - start]
                offset += end - start

    def was_sent(self) -> None:
        """What was pending is over there."""
        self.sent, self._lost = self.sent.union(self.pending), self._lost.subtract(self.pending)
        self.pending = EMPTY

    @property
    def gone(self) -> Ranges:
        """Pages that went over and are holes now."""
        return self._lost.subtract(self.data)

    def close(self) -> None:
        """Let go of our mapping of it; the segment is its owner's."""
        witness, self._witness = self._witness, None
        if witness is not None:
            witness.close()
