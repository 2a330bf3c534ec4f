"""Deleted files of a tree under migration: their content goes over in the rounds as pages do, changes once more."""

import os
from array import array
from collections.abc import Iterator, Sequence

from core.errors import CollectError
from core.images import kinds
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.store import ImageSet
from core.kernel import process_vm
from core.kernel.calls import pidfd_getfd
from core.kernel.modify_watch import ModifyWatch
from core.kernel.posix_mqueue import is_message_queue
from core.live.mappers import Mappers, inode_of
from core.live.shared_file import FileTimes, SharedFile, Stores
from core.plan.ghost_names import DELETED, GHOST_MEMORY
from core.proc.reader import ProcReader
from core.resources.context import leads_to
from core.resources.ghost_file import Ghost, Ghosts, is_ghost
from core.resources.regular_file import reg_file_entry
from core.resources.shared_memory import kind_of_link


class LiveGhost(SharedFile):
    """One deleted file, one of a tmpfs that is mapped, or a chosen one."""

    def __init__(self, ghost: Ghost, key: "array[int]") -> None:
        super().__init__(ghost.fd, ghost.path, GHOST_MEMORY | ghost.id, key)
        self.ghost = ghost
        self.watched = 0  # its number among the modified
        self._times = FileTimes()

    def look(self, mappers: Mappers, doubt: str, *, last: bool) -> None:
        """What has changed since the last look; `doubt`: see find_changed. Nothing is read while it is not mapped and
        its times and size stay."""
        times_changed = self._times.changed(self.fd)
        if not self.ghost.shared and not self.stores.watched:
            if times_changed:
                self.find_changed(Stores(), "it was written to", last=last)
            return
        self.find_changed(mappers.stores(inode_of(self.fd)), doubt or mappers.doubt(self), last=last)


class LiveGhosts:
    """Those of a tree, and `chosen` files. `close` gives all of them back."""

    def __init__(self, chosen: frozenset[str] = frozenset()) -> None:
        self.ghosts = Ghosts(chosen)
        self._live: dict[int, LiveGhost] = {}
        self._key = process_vm.make_hash_key()
        self._root = ""
        self._watch: ModifyWatch | None = None

    def __iter__(self) -> Iterator[LiveGhost]:
        return iter(self._live.values())

    def find(self, processes: Sequence[tuple[int, int]], reader: ProcReader, mappers: Mappers) -> None:
        """Deleted and chosen files that processes (pid and pidfd of each) have open; what none has any more goes, but
        for chosen ones that have their names."""
        self._root = reader.path(processes[0][0], "root") if processes else self._root
        found = {ghost.id for pid, pidfd in processes for ghost in self._of(pid, pidfd, reader)}
        self.ghosts.keep(found | {ghost.id for ghost in self.ghosts if ghost.mapped or self._is_there(ghost)})
        self.look(mappers)

    def _of(self, pid: int, pidfd: int, reader: ProcReader) -> Iterator[Ghost]:
        try:
            for fd in reader.fds(pid):
                link = reader.fd_link(pid, fd)
                if link.endswith(DELETED) or link in self.ghosts.chosen:
                    yield from self._behind(pid, pidfd_getfd(pidfd, fd), reader.fd_link(pid, fd), reader)
        except OSError:  # it has just closed it, or ended: the freeze sees to it
            return

    def _behind(self, pid: int, ours: int, link: str, reader: ProcReader) -> Iterator[Ghost]:
        try:
            found = os.fstat(ours)
            if is_message_queue(ours, found):
                return
            root = reader.path(pid, "root")
            if is_ghost(found) and link.endswith(DELETED) and kind_of_link(link) is None:
                yield self.ghosts.add(ours, link, root)
            elif link in self.ghosts.chosen and leads_to(root + link, found):
                yield self.ghosts.add(ours, link, root, keeps_name=True)
        finally:
            os.close(ours)

    def look(self, mappers: Mappers, *, last: bool = False) -> None:
        """What has changed in each. `last`: nothing runs any more."""
        kept = {ghost.id: ghost for ghost in self.ghosts if ghost.has_content}
        for id in set(self._live) - set(kept):
            self._forget(self._live.pop(id))
        for id, ghost in kept.items():
            if id not in self._live:
                self._live[id] = LiveGhost(ghost, self._key)
        modified = self._watch.read({live.watched for live in self}) if self._watch is not None else set()
        for live in self:
            live.look(mappers, self._doubt(live, modified), last=last)
        if last:
            self._check_met()
            self.ghosts.check_names()

    def _is_there(self, ghost: Ghost) -> bool:
        """A chosen file that who closed it may open again."""
        return ghost.path in self.ghosts.chosen and leads_to(self._root + ghost.path, os.fstat(ghost.fd))

    def _check_met(self) -> None:
        """CollectError when a chosen file was closed before it could go along."""
        for path in sorted(self.ghosts.chosen - {ghost.path for ghost in self.ghosts}):
            if os.path.lexists(self._root + path):
                raise CollectError(path, "was closed before it went over", hint="try again")

    def _doubt(self, live: LiveGhost, modified: set[int]) -> str:
        """Why a mapped one may have changed otherwise than by stores that its mappers tell of."""
        if not live.ghost.on_tmpfs:
            return "it is mapped, and not on a tmpfs"
        if not live.ghost.shared:
            return ""
        if not live.watched:
            try:
                self._watch = self._watch or ModifyWatch()
                live.watched = self._watch.add(live.fd)
            except OSError as error:
                return f"it cannot be watched: {error}"
            return "it has not been watched until now"
        return "it was written to" if live.watched in modified else ""

    def _forget(self, live: LiveGhost) -> None:
        live.close()
        if self._watch is not None and live.watched:
            self._watch.remove(live.watched)

    def describe(self, tree: ImageSet) -> None:
        """Add them to the images of a round: a file of its own for each."""
        for live in self:
            ghost = live.ghost
            reg = reg_file_entry(ghost.id, ghost.path, 0, os.fstat(ghost.fd))
            tree.add(kinds.FILES, entry := FileEntry(type=FdTypes.REG, id=ghost.id, reg=reg))
            self.ghosts.describe_as(tree, entry, ghost)

    def close(self) -> None:
        """Let go of all."""
        for live in self:
            live.close()
        self._live.clear()
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()
        self.ghosts.close()
