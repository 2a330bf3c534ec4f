"""Deleted files of a tree under migration: their content goes over in the rounds as pages do, changes once more."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Final

from core.images import kinds
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.store import ImageSet
from core.kernel.calls import pidfd_getfd
from core.memory.file_pages import FilePageReader, data_ranges, page_span
from core.memory.ranges import EMPTY, Ranges
from core.plan.ghost_names import DELETED, GHOST_MEMORY
from core.proc.reader import ProcReader
from core.resources.ghost_file import Ghost, Ghosts, is_ghost
from core.resources.regular_file import reg_file_entry
from core.resources.shared_memory import kind_of_link

CHUNK: Final = 1 << 20
SETTLED_NS: Final = 100_000_000  # file times have the grain of the timer tick: what changed later may look unchanged


class LiveGhost:
    """One deleted file. `pending`: pages to be sent; `holes`: what was sent and is a hole now."""

    def __init__(self, ghost: Ghost) -> None:
        self.ghost = ghost
        self.pending = EMPTY
        self.holes = EMPTY
        self._state: tuple[int, int, int] | None = None
        self._digests: dict[int, bytes] = {}

    @property
    def memory_id(self) -> int:
        """Its number in the page stream."""
        return GHOST_MEMORY | self.ghost.id

    def page_reader(self, buffers: int) -> FilePageReader:
        """Reads its content."""
        return FilePageReader(self.ghost.fd, buffers=buffers)

    def look(self) -> None:
        """What has changed since the last look is pending; nothing is read while its times and size stay."""
        found = os.fstat(self.ghost.fd)
        state = found.st_size, found.st_mtime_ns, found.st_ctime_ns
        if state == self._state and not self.ghost.mapped:  # stores to mapped memory change no time
            return
        self._state = state if time.time_ns() - max(state[1:]) > SETTLED_NS else None
        data = data_ranges(self.ghost.fd)
        reader = self.page_reader(1)
        chunks = {start for span in data for start in range(span[0] // CHUNK * CHUNK, span[1], CHUNK)}
        for start in sorted(chunks | set(self._digests)):
            chunk = Ranges.of([(start, start + CHUNK)])
            part = data.intersect(chunk)
            self._compare(start, part, chunk.intersect(page_span(found.st_size)).subtract(part), reader)

    def _compare(self, start: int, part: Ranges, hole: Ranges, reader: FilePageReader) -> None:
        digest = hashlib.sha256(str(part).encode())
        for batch in reader.batches(part):
            digest.update(batch.memory)
        if self._digests.get(start) != digest.digest():
            self._digests[start] = digest.digest()
            self.pending = self.pending.subtract(hole).union(part)
            self.holes = self.holes.subtract(part).union(hole)

    def was_sent(self) -> None:
        """What was pending is over there."""
        self.pending = self.holes = EMPTY


class LiveGhosts:
    """Those of a tree. `close` gives all of them back."""

    def __init__(self) -> None:
        self.ghosts = Ghosts()
        self._live: dict[int, LiveGhost] = {}

    def __iter__(self) -> Iterator[LiveGhost]:
        return iter(self._live.values())

    def find(self, processes: Sequence[tuple[int, int]], reader: ProcReader) -> None:
        """The deleted files that the processes (pid and pidfd of each) have open; those that none has any more go."""
        found = {ghost.id for pid, pidfd in processes for ghost in self._of(pid, pidfd, reader)}
        self.ghosts.keep(found | {ghost.id for ghost in self.ghosts if ghost.mapped})
        self.look()

    def _of(self, pid: int, pidfd: int, reader: ProcReader) -> Iterator[Ghost]:
        try:
            for fd in reader.fds(pid):
                if reader.fd_link(pid, fd).endswith(DELETED):
                    yield from self._behind(pid, pidfd_getfd(pidfd, fd), reader.fd_link(pid, fd), reader)
        except OSError:  # it has just closed it, or ended: the freeze sees to it
            return

    def _behind(self, pid: int, ours: int, link: str, reader: ProcReader) -> Iterator[Ghost]:
        try:
            if is_ghost(os.fstat(ours)) and link.endswith(DELETED) and kind_of_link(link) is None:
                yield self.ghosts.add(ours, link, reader.path(pid, "root"))
        finally:
            os.close(ours)

    def look(self) -> None:
        """What has changed in each."""
        kept = {ghost.id: ghost for ghost in self.ghosts if ghost.has_content}
        self._live = {id: self._live.get(id) or LiveGhost(ghost) for id, ghost in kept.items()}
        for live in self:
            live.look()

    def describe(self, tree: ImageSet) -> None:
        """Add them to the images of a round: a file of its own for each."""
        for live in self:
            ghost = live.ghost
            reg = reg_file_entry(ghost.id, ghost.path, 0, os.fstat(ghost.fd))
            tree.add(kinds.FILES, entry := FileEntry(type=FdTypes.REG, id=ghost.id, reg=reg))
            self.ghosts.describe_as(tree, entry, ghost)

    def pending_pages(self) -> int:
        """How much is to be sent."""
        return sum(live.pending.total_pages for live in self)

    def close(self) -> None:
        """Let go of all."""
        self._live.clear()
        self.ghosts.close()
