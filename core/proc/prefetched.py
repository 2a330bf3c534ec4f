"""A ProcReader that has read many files of many processes in one go and hands each out when it is asked for.

For processes that stand still: what is handed out is as old as the reader.
"""

import os
from collections.abc import Sequence

from core.proc.reader import ProcReader, content_of

TIMER = b"anon_inode:[timerfd]"


class PrefetchedReader(ProcReader):
    """Reads as `reader` does whatever was not read before."""

    def __init__(self, reader: ProcReader, files: Sequence[tuple[int, str]], links: Sequence[tuple[int, str]]) -> None:
        super().__init__(reader.proc)
        self._files: dict[tuple[int | str, str], bytes | OSError] = {}
        self._links: dict[tuple[int | str, str], bytes | OSError] = {}
        self.fetch(files, links)

    def fetch(self, files: Sequence[tuple[int, str]], links: Sequence[tuple[int, str]]) -> None:
        """Read these too."""
        self._files.update(zip(files, self.contents(files), strict=True))
        self._links.update(zip(links, self.links(links), strict=True))

    def fetch_descriptors(self, pid: int, fds: Sequence[int]) -> None:
        """Read of these where they lead and what there is of them; but for timers, that have to be settled."""
        self.fetch([], links := [(pid, f"fd/{fd}") for fd in fds])
        settled = [fd for fd, link in zip(fds, links, strict=True) if self._links[link] != TIMER]
        self.fetch([(pid, f"fdinfo/{fd}") for fd in settled], [])

    def content(self, pid: int | str, name: str) -> bytes:
        """Bytes of /proc/PID/NAME."""
        found = self._files.get((pid, name))
        return super().content(pid, name) if found is None else content_of(found)

    def _link(self, pid: int, name: str) -> str:
        found = self._links.get((pid, name))
        return super()._link(pid, name) if found is None else os.fsdecode(content_of(found))
