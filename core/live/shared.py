"""Shared memory of a live source: its pages, whoever maps it, go over once and again when their content is another.

Tells by comparing with what went over: stores of processes that come and go between two looks leave no other trace.
"""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from core.images.store import ImageSet
from core.kernel import process_vm
from core.memory.dirty.hashes import PageHashes
from core.memory.file_pages import FilePageReader, data_ranges
from core.memory.pages import PageBatch
from core.memory.ranges import EMPTY, Ranges
from core.proc.reader import ProcReader
from core.resources.shared_memory import Segment, Segments, kind_of_link


class SharedSegment:
    """One of them: `pending` has to go over, `sent` is over there. A PageReader of its own pages."""

    def __init__(self, segment: Segment, key: "array[int]") -> None:
        self.segment = segment
        self.pending = EMPTY
        self.sent = EMPTY
        self.data = EMPTY  # no holes, at the last look
        self.missing = EMPTY  # what is not there any more reads as zero
        self._key = key
        self._copied = PageHashes()  # of the pages as they went over
        self._buffers = 1

    @property
    def id(self) -> int:
        """Its number on the way."""
        return self.segment.id

    def look(self) -> None:
        """Which of its pages differ from what went over."""
        self.data = data_ranges(self.segment.fd)
        self.pending = self.data.subtract(self.sent).union(Ranges.ordered(self._changed()))

    def _changed(self) -> Iterator[tuple[int, int]]:
        for batch in FilePageReader(self.segment.fd).batches(self.data.intersect(self.sent)):
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
        self.sent = self.sent.union(self.pending)
        self.pending = EMPTY


@dataclass(slots=True)
class SharedPages:
    """All shared memory of a tree. Each round whoever finds some tells `segments`, then look."""

    segments: Segments = field(default_factory=lambda: Segments(ProcReader()))
    _known: dict[int, SharedSegment] = field(default_factory=dict)
    _key: "array[int]" = field(default_factory=process_vm.make_hash_key)

    def __iter__(self) -> Iterator[SharedSegment]:
        return iter(list(self._known.values()))

    def pending_pages(self) -> int:
        """How many pages have to go over."""
        return sum(one.pending.total_pages for one in self)

    def find_open(self, pid: int, reader: ProcReader) -> None:
        """Memfds that `pid` has open. OSError when it ends meanwhile."""
        for fd in reader.fds(pid):
            link = reader.fd_link(pid, fd)
            if kind_of_link(link) is not None:
                self.segments.opened(reader.path(pid, f"fd/{fd}"), link)

    def describe(self, images: ImageSet) -> None:
        """Add the images of all; who is gone since the look is forgotten."""
        for one in self:
            try:
                self.segments.describe(one.segment, images)
            except FileNotFoundError:
                del self._known[one.id]

    def look(self) -> None:
        """Which pages of those that were found since the last look have to go over."""
        for id in self.segments.forget_unseen():
            self._known.pop(id, None)
        for segment in self.segments:
            if segment.id not in self._known:
                self._known[segment.id] = SharedSegment(segment, self._key)
        for one in self:
            one.look()

    def gone(self) -> dict[int, Ranges]:
        """Pages that went over and are holes now, by segment."""
        return {one.id: lost for one in self if (lost := one.sent.subtract(one.data))}
