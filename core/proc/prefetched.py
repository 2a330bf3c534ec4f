"""A ProcReader that has read many files of many processes in one go and hands each out when it is asked for.

For processes that stand still: what is handed out is as old as the reader.
"""

import os
from collections.abc import Sequence

from core.proc.reader import ProcReader, content_of

Found = dict[str, bytes | OSError]
NONE: Found = {}
TIMER = b"anon_inode:[timerfd]"


class PrefetchedReader(ProcReader):
    """Reads as `reader` does whatever was not read before."""

    def __init__(self, reader: ProcReader, pids: Sequence[int], files: Sequence[str], links: Sequence[str]) -> None:
        super().__init__(reader.proc)
        of_each = zip(pids, self.contents_of(pids, files), strict=True)
        self._files: dict[int | str, Found] = {pid: dict(zip(files, found, strict=True)) for pid, found in of_each}
        of_each = zip(pids, self.links_of(pids, links), strict=True)
        self._links: dict[int | str, Found] = {pid: dict(zip(links, found, strict=True)) for pid, found in of_each}

    def fetch_descriptors(self, pid: int, fds: Sequence[int]) -> None:
        """Read of these where they lead and what there is of them; but for timers, that have to be settled."""
        names = [f"fd/{fd}" for fd in fds]
        [links] = self.links_of([pid], names)
        self._links.setdefault(pid, {}).update(zip(names, links, strict=True))
        names = [f"fdinfo/{fd}" for fd, link in zip(fds, links, strict=True) if link != TIMER]
        [files] = self.contents_of([pid], names)
        self._files.setdefault(pid, {}).update(zip(names, files, strict=True))

    def content(self, pid: int | str, name: str) -> bytes:
        """Bytes of /proc/PID/NAME."""
        found = self._files.get(pid, NONE).get(name)
        return super().content(pid, name) if found is None else content_of(found)

    def _link(self, pid: int, name: str) -> str:
        found = self._links.get(pid, NONE).get(name)
        return super()._link(pid, name) if found is None else os.fsdecode(content_of(found))
