"""Shared memory of a live source that no path leads to: each piece goes over once, whoever maps it.

Owns which there are, and what is special about a memfd: it may be written to like a file.
"""

import fcntl
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from core.images.store import ImageSet
from core.kernel import process_vm
from core.live.mappers import Mappers, inode_of
from core.live.shared_file import FileTimes, SharedFile, Stores
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.proc.reader import ProcReader
from core.resources.shared_memory import F_GET_SEALS, Segment, Segments, kind_of_link

OWNER_WRITES: Final = 0o200  # in the mode of /proc/PID/fd/N
MEMFD_LINK: Final = "/memfd:"
SEALED: Final = 0x8 | 0x10  # F_SEAL_WRITE, F_SEAL_FUTURE_WRITE


class SharedSegment(SharedFile):
    """One of them."""

    def __init__(self, segment: Segment, key: "array[int]") -> None:
        super().__init__(segment.fd, segment.link, segment.id, key)
        self.segment = segment
        self._times = FileTimes()
        self._samples: dict[int, int | None] = {}  # of huge pages: a page of each that was not zero
        self._unsampled = EMPTY
        self._writable = self._was_writable = False  # open for writing at the last look; at the one before

    def note_open(self, writable: bool) -> None:
        """Before each look but the last: whether some task has it open for writing."""
        self._writable, self._was_writable = writable, self._writable

    def look(self, mappers: Mappers, *, last: bool) -> None:
        """Which of its pages have changed."""
        doubt, stores = mappers.doubt(self), mappers.stores(inode_of(self.fd))
        if self._times.changed(self.fd) and self._may_be_written_to(stores) and not doubt:
            doubt = "it is or was open for writing, and was written to one way or another"
        if self.segment.page_size != PAGE_SIZE and not stores.hides_removals and not doubt:
            doubt = "only userfaultfd tracks huge pages, and it is not used here"
        self.find_changed(stores, doubt, last=last)

    def _need_witness(self) -> None:
        if self.segment.page_size == PAGE_SIZE:
            super()._need_witness()

    def _removed(self) -> Ranges:
        """A mapping of our own would need huge pages of its own. But one that was removed is zero where it was not."""
        size = self.segment.page_size
        if size == PAGE_SIZE:
            return super()._removed()
        [nothing] = process_vm.hash_pages(bytes(PAGE_SIZE), self._key)
        for start, end in self._unsampled.widened(size):
            for page in range(start, end, size):
                self._samples[page] = self._copied.first_other(page, page + size, nothing)
        self._unsampled = EMPTY
        firsts = (first for page, first in sorted(self._samples.items()) if first is not None and page < self.size)
        pages = Ranges.ordered((first, first + PAGE_SIZE) for first in firsts)
        return Ranges.ordered(self._differing(pages)).widened(size).intersect(self._sent)

    def was_sent(self) -> None:
        """What was pending is over there."""
        self._unsampled = self._unsampled.union(self.pending, self.holes)
        super().was_sent()

    def _may_be_written_to(self, stores: Stores) -> bool:
        """Stores change its times too, but only those where there was nothing: when there are none of these, somebody
        had it open for writing between two looks."""
        was_open = self._writable or self._was_writable
        if not was_open and self.segment.link.startswith(MEMFD_LINK) and self._has_looked:
            was_open = self._times.moved and not stores.written.union(stores.unknown).subtract(self.data)
        return was_open and not fcntl.fcntl(self.fd, F_GET_SEALS) & SEALED


@dataclass(slots=True)
class SharedPages:
    """All shared memory of a tree. Each round whoever finds some tells `segments`, then look."""

    segments: Segments = field(default_factory=lambda: Segments(ProcReader()))
    _known: dict[int, SharedSegment] = field(default_factory=dict)
    _key: "array[int]" = field(default_factory=process_vm.make_hash_key)
    _writable: set[int] = field(default_factory=set)  # of those that some task has open for writing

    def __iter__(self) -> Iterator[SharedSegment]:
        return iter(list(self._known.values()))

    def find_open(self, pid: int, reader: ProcReader) -> None:
        """Memfds that `pid` has open. OSError when it ends meanwhile."""
        for fd in reader.fds(pid):
            link = reader.fd_link(pid, fd)
            if kind_of_link(link) is None:
                continue
            way = reader.path(pid, f"fd/{fd}")
            segment = self.segments.opened(way, link)
            if segment is not None and os.lstat(way).st_mode & OWNER_WRITES:
                self._writable.add(segment.id)

    def describe(self, images: ImageSet) -> None:
        """Add the images of all; who is gone since the look is forgotten."""
        for one in self:
            try:
                self.segments.describe(one.segment, images)
            except FileNotFoundError:
                self._known.pop(one.segment.id).close()

    def look(self, mappers: Mappers, *, last: bool = False) -> None:
        """Which pages of those that were found since the last look have to go over. `last`: nothing runs any more."""
        self.segments.find_unattached()
        for id in self.segments.forget_unseen():
            if id in self._known:
                self._known.pop(id).close()
        for segment in self.segments:
            if segment.id not in self._known:
                self._known[segment.id] = SharedSegment(segment, self._key)
        for one in self:
            if not last:
                one.note_open(one.segment.id in self._writable)
            one.look(mappers, last=last)
        self._writable.clear()

    def close(self) -> None:
        """Let go of all. Idempotent."""
        for one in self:
            one.close()
        self.segments.close()
