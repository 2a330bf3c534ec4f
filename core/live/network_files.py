"""What the tree wrote to file systems of the network is there before its copy, on another host, opens the files.

A client keeps writes for a while, and its other clients see them late. A server that does not answer holds up a thread
of ours, never the freeze.
"""

import errno
import os
import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from core.errors import CollectError
from core.kernel.calls import pidfd_getfd
from core.proc.maps import Vma
from core.proc.mountinfo import Mount, mount_of
from core.proc.reader import ProcReader

BEFORE_LIMIT_S: Final = 60.0  # while the tree runs: what piled up
FREEZE_LIMIT_S: Final = 5.0  # while it stands still: what was written since
WORKERS: Final = 8
HINT: Final = "the process runs on here; see whether the file server answers"


@dataclass(frozen=True, slots=True)
class FileHolder:
    """A process by its pid and pidfd, and its mappings."""

    pid: int
    pidfd: int
    vmas: Sequence[Vma]


@dataclass(slots=True)
class NetworkFiles:
    """Those of a tree. Nothing is looked at where nothing of the network is mounted."""

    reader: ProcReader
    _mounts: Sequence[Mount] = ()
    _points: tuple[str, ...] = ()  # where something of the network is mounted

    def flush_before(self, holders: Sequence[FileHolder]) -> None:
        """While the tree runs, so that little is left for the freeze; see flush()."""
        self._mounts = self.reader.mountinfo(holders[0].pid)
        self._points = tuple(mount.mount_point for mount in self._mounts if mount.is_network)
        self.flush(holders, BEFORE_LIMIT_S)

    def flush(self, holders: Sequence[FileHolder], limit_s: float | None = None) -> int:
        """Every file that is open for writing, or mapped shared to be written to; how many. CollectError names one that
        could not be flushed."""
        if not self._points:
            return 0
        files: dict[str, int] = {}
        for holder in holders:
            for path, fd in self._find(holder, files):
                files[path] = fd
        _sync_all(files, FREEZE_LIMIT_S if limit_s is None else limit_s)
        return len(files)

    def _find(self, holder: FileHolder, known: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        """Paths that are not known yet, with descriptors of ours. What goes while we look is left out: the freeze looks
        again."""
        fds: Sequence[int] = ()
        with suppress(ProcessLookupError):
            fds = self.reader.fds(holder.pid)
        links = self.reader.links([(holder.pid, f"fd/{fd}") for fd in fds])
        for fd, link in zip(fds, links, strict=True):
            path = os.fsdecode(link) if isinstance(link, bytes) else ""
            if path not in known and self._is_network(path):
                with suppress(OSError):
                    if self.reader.fdinfo(holder.pid, fd).flags & (os.O_WRONLY | os.O_RDWR):
                        yield path, pidfd_getfd(holder.pidfd, fd)
        for vma in holder.vmas:
            if vma.shared and vma.writable and vma.path not in known and self._is_network(vma.path):
                piece = self.reader.path(holder.pid, f"map_files/{vma.start:x}-{vma.end:x}")
                with suppress(OSError):
                    yield vma.path, os.open(piece, os.O_RDONLY | os.O_CLOEXEC)

    def _is_network(self, path: str) -> bool:
        """By its name: to ask the file system could take long."""
        mount = mount_of(self._mounts, path) if path.startswith(self._points) else None
        return mount is not None and mount.is_network


def _sync_all(files: Mapping[str, int], limit_s: float) -> None:
    """fsync(2) of every descriptor, which is closed after it."""
    waiting: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, OSError | None]] = queue.SimpleQueue()
    for item in files.items():
        waiting.put(item)
    for _ in range(min(WORKERS, len(files))):
        threading.Thread(target=_sync_some, args=(waiting, done), daemon=True).start()
    deadline, missing = time.monotonic() + limit_s, set(files)
    while missing:
        try:
            path, error = done.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            reason = f"its file system has not taken what was written within {limit_s:g} s"
            raise CollectError(min(missing), reason, hint=HINT) from None
        if error is not None:
            raise CollectError(path, f"its file system does not take what was written: {error.strerror}", hint=HINT)
        missing.discard(path)


def _sync_some(
    waiting: "queue.SimpleQueue[tuple[str, int]]", done: "queue.SimpleQueue[tuple[str, OSError | None]]"
) -> None:
    while True:
        try:
            path, fd = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            os.fsync(fd)
            done.put((path, None))
        except OSError as error:
            done.put((path, None if error.errno == errno.EINVAL else error))  # a FIFO: there is nothing to be written
        finally:
            os.close(fd)
