"""Shared memory of a live source: its pages, whoever maps it, go over once and again when they have changed.

Owns whom to ask about stores, and the doubts: what nobody can tell of came and went between two looks.
"""

import logging
import os
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from core.images.store import ImageSet
from core.kernel import process_vm
from core.kernel.mapping_watch import Happened, Inode, MappingWatch
from core.live.segment import SharedSegment, Stores
from core.memory.dirty import SharedWrites
from core.memory.ranges import Ranges
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.resources.shared_memory import Segments, kind_of_link

OWNER_WRITES: Final = 0o200  # in the mode of /proc/PID/fd/N
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mapper:
    """A process at the last look: its VMAs of shared memory, and what it stored there."""

    pid: int
    vmas: Sequence[Vma]
    writes: SharedWrites


@dataclass(slots=True)
class SharedPages:
    """All shared memory of a tree. A look begins with listen(); then whoever finds some tells `segments`, then look."""

    segments: Segments = field(default_factory=lambda: Segments(ProcReader()))
    _known: dict[int, SharedSegment] = field(default_factory=dict)
    _key: "array[int]" = field(default_factory=process_vm.make_hash_key)
    _watch: MappingWatch | None = None
    _happened: Happened = field(default_factory=lambda: Happened(set(), set()))
    _writable: set[int] = field(default_factory=set)  # of those that some task has open for writing
    _strangers: dict[Inode, set[int]] = field(default_factory=dict)  # who mapped it and was not in the tree

    def __iter__(self) -> Iterator[SharedSegment]:
        return iter(list(self._known.values()))

    def pending_pages(self) -> int:
        """How many pages have to go over."""
        return sum(one.pending.total_pages for one in self)

    def listen(self) -> None:
        """Before it is asked who there is: what comes and goes from now on is told by the look after the next."""
        if self._watch is None:
            try:
                self._watch = MappingWatch()
            except OSError as error:
                self._happened.unknown = True
                log.info("mappings that come and go cannot be watched: %s", error)
                return
        self._happened.add(self._watch.read())

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
                self._known.pop(one.id).close()

    def look(self, mappers: Collection[Mapper], *, last: bool = False) -> None:
        """Which pages of those that were found since the last look have to go over. `last`: nothing runs any more."""
        if last:
            self.listen()
        for id in self.segments.forget_unseen():
            if id in self._known:
                self._known.pop(id).close()
        for segment in self.segments:
            if segment.id not in self._known:
                self._known[segment.id] = SharedSegment(segment, self._key)
        stores = {id: Stores() for id in self._known}
        for mapper in mappers:
            for vma in mapper.vmas:
                if (mapped := self.segments.known(vma)) is not None:
                    stores[mapped.id].add(mapper.pid, vma, mapper.writes)
        tree = {mapper.pid for mapper in mappers}
        for one in self:
            if not last:
                one.note_open(one.id in self._writable)
            one.look(stores[one.id], self._doubt(one, stores[one.id], tree), last=last)
        self._writable.clear()
        self._happened = Happened(set(), set())

    def _doubt(self, one: SharedSegment, stores: Stores, tree: set[int]) -> str:
        """Why stores to it may have been missed; "" when they were not."""
        inode = self.segments.inode(one.segment)
        strangers = self._strangers.setdefault(inode, set())
        known = strangers - tree  # since an earlier look: not just a child that has not been met yet
        mapped = {pid for found, pid in self._happened.mapped if found == inode and pid != os.getpid()}
        strangers |= mapped
        strangers -= tree
        if self._happened.unknown:
            return "mappings and processes that came and went could not be watched"
        if any(os.path.exists(f"/proc/{pid}") for pid in known):
            return "a process outside of the tree maps it"
        if self._happened.forked & (one.pids | stores.pids):
            return "a process that maps it has forked"
        return "it was mapped anew" if mapped else ""

    def gone(self) -> Mapping[int, Ranges]:
        """Pages that went over and are holes now, by segment."""
        return {one.id: one.gone for one in self if one.gone}

    def close(self) -> None:
        """Let go of all. Idempotent."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        for one in self:
            one.close()
        self.segments.close()
