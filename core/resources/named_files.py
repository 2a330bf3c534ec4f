"""Files known by path alone (mapped, executable, cwd, root): their entries in files.img."""

import os
from collections.abc import Callable, Mapping
from typing import Final

from core.errors import CollectError
from core.images import kinds
from core.images.pb.descriptors_pb2 import FownEntry, MemfdFileEntry, RegFileEntry
from core.images.pb.files_pb2 import MEMFD, REG, FileEntry
from core.images.store import ImageSet
from core.plan.ghost_names import DELETED, last_name
from core.proc.text import is_printable, shown

O_RDWR: Final = 2
O_DIRECTORY: Final = 0o200000
Nameless = Callable[[FileEntry, int, str], object]
"""Told of a deleted one: its entry in files.img, a descriptor of it, the kernel's name for it."""
NO_OWNER: Final = FownEntry(uid=0, euid=0, signum=0, pid_type=0, pid=0)


class NamedFiles:
    """Gives every path one id and one RegFileEntry. `root` is the target's root as we see it (/proc/PID/root).

    `reserved`: ids by path, of those that have theirs already.
    """

    def __init__(
        self, images: ImageSet, root: str, next_id: Callable[[], int], reserved: Mapping[str, int] | None = None
    ) -> None:
        self._reserved = reserved or {}
        self.images = images
        self._root = root
        self._next_id = next_id
        self.ids: dict[str, int] = {}

    def add(self, path: str, flags: int = 0) -> int:
        """Id of the file `path`, as the target names it; CollectError when it is not there."""
        if path not in self.ids:
            self.images.add(kinds.FILES, entry := self._entry(path, flags))
            self.ids[path] = entry.id
        return self.ids[path]

    def add_directory(self, path: str, way: str, nameless: Nameless) -> int:
        """Id of the directory `path`; `way` leads to it (a link of /proc), also when it is deleted."""
        if not path.endswith(DELETED) or os.path.lexists(self._root + path):
            return self.add(path, O_DIRECTORY)
        if path not in self.ids:
            fd = os.open(way, os.O_PATH | O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.images.add(kinds.FILES, entry := self._made(last_name(path), O_DIRECTORY, os.fstat(fd)))
                nameless(entry, fd, path)
            finally:
                os.close(fd)
            self.ids[path] = entry.id
        return self.ids[path]

    def add_ghost(self, ghost_id: int, path: str, found: os.stat_result, tell: Callable[[FileEntry], object]) -> int:
        """Id of the file by which a ghost is mapped; `tell` adds what else the images have to know of it."""
        key = f"ghost {ghost_id}"
        if key not in self.ids:
            self.images.add(kinds.FILES, entry := self._made(path, O_RDWR, found))
            tell(entry)
            self.ids[key] = entry.id
        return self.ids[key]

    def add_memfd(self, inode_id: int) -> int:
        """Id of the file by which a memfd is mapped."""
        key = f"memfd {inode_id}"
        if key not in self.ids:
            self.ids[key] = file_id = self._next_id()
            memfd = MemfdFileEntry(id=file_id, flags=O_RDWR, pos=0, fown=NO_OWNER, inode_id=inode_id)
            self.images.add(kinds.FILES, FileEntry(type=MEMFD, id=file_id, memfd=memfd))
        return self.ids[key]

    def _entry(self, path: str, flags: int) -> FileEntry:
        try:
            found = os.stat(self._root + path)
        except OSError as error:
            raise CollectError(shown(path), f"cannot be looked at: {error.strerror}") from error
        if not is_printable(path):
            raise CollectError(shown(path), "its name is not UTF-8, which images cannot hold", hint="rename it")
        return self._made(path, flags, found, self._reserved.get(path))

    def _made(self, path: str, flags: int, found: os.stat_result, reserved: int | None = None) -> FileEntry:
        file_id = self._next_id() if reserved is None else reserved
        reg = RegFileEntry(
            id=file_id, flags=flags, pos=0, fown=NO_OWNER, name=path, mnt_id=-1, size=found.st_size, mode=found.st_mode
        )
        return FileEntry(type=REG, id=file_id, reg=reg)


def paths_by_id(images: ImageSet) -> dict[int, str]:
    """Path of every regular file entry of an image set."""
    return {entry.id: entry.reg.name for entry in images.all(kinds.FILES) if entry.type == REG}
