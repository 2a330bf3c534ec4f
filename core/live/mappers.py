"""Who maps shared memory in a live source, and what they stored there.

Owns the doubts: whom nobody can tell of, as they came and went between two looks.
"""

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from core.kernel.mapping_watch import Happened, Inode, MappingWatch
from core.live.shared_file import SharedFile, Stores
from core.memory.dirty import SharedWrites
from core.proc.maps import Vma

NOTHING: Final = SharedWrites()
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mapper:
    """A process at the last look: its VMAs of shared memory, and what it stored there."""

    pid: int
    vmas: Sequence[Vma]
    writes: SharedWrites


def inode_of(fd: int) -> Inode:
    """Device and inode."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


@dataclass(slots=True)
class Mappers:
    """All of a tree. A round begins with listen(); when every process was looked at comes look()."""

    _watch: MappingWatch | None = None
    _heard: Happened = field(default_factory=lambda: Happened(set(), set()))  # since the last look
    _happened: Happened = field(default_factory=lambda: Happened(set(), set()))  # from the look before to the last
    _mapped: dict[Inode, set[int]] = field(default_factory=dict)  # what of that is maps, by file, but for our own
    _has_looked: bool = False
    _tree: frozenset[int] = frozenset()
    _stores: dict[Inode, Stores] = field(default_factory=dict)
    _strangers: dict[Inode, set[int]] = field(default_factory=dict)  # who mapped it and was not in the tree

    def listen(self, *, wanted: bool) -> None:
        """Before it is asked who there is: who comes, maps and goes from now on is told by the look after the next.

        `wanted`: there is memory to share already. The watch is of the whole host, so it begins only then.
        """
        if self._watch is None:
            if not wanted:
                return
            self._heard.unknown = self._has_looked
            try:
                self._watch = MappingWatch()
            except OSError as error:
                self._heard.unknown = True
                log.info("mappings that come and go cannot be watched: %s", error)
                return
        self._heard.add(self._watch.read())

    def look(self, mappers: Collection[Mapper]) -> None:
        """These are all."""
        self._happened, self._heard = self._heard, Happened(set(), set())
        self._has_looked = True
        self._mapped = {}
        for inode, pid in self._happened.mapped:
            if pid != os.getpid():
                self._mapped.setdefault(inode, set()).add(pid)
        self._tree = frozenset(mapper.pid for mapper in mappers)
        self._stores = {}
        for mapper in mappers:
            for vma in mapper.vmas:
                inode = os.makedev(*vma.device), vma.inode
                self._stores.setdefault(inode, Stores()).add(mapper.pid, vma, mapper.writes)

    def stores(self, inode: Inode) -> Stores:
        """Of the last look."""
        return self._stores.get(inode) or Stores()

    def doubt(self, file: SharedFile) -> str:
        """Why stores to it may have been missed between the last two looks; "" when they were not."""
        inode = inode_of(file.fd)
        strangers = self._strangers.setdefault(inode, set())
        known = strangers - self._tree  # since an earlier look: not just a child that has not been met yet
        mapped = self._mapped.get(inode, set())
        strangers |= mapped
        strangers -= self._tree
        if self._happened.unknown:
            return "mappings and processes that came and went could not be watched"
        if any(os.path.exists(f"/proc/{pid}") for pid in known):
            return "a process outside of the tree maps it"
        if self._happened.forked & (file.stores.pids | self.stores(inode).pids):
            return "a process that maps it has forked"
        return "it was mapped anew" if mapped else ""

    def close(self) -> None:
        """Idempotent."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
