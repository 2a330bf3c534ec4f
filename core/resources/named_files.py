"""Files known by path alone (mapped, executable, cwd, root): their entries in files.img."""

import os
from collections.abc import Callable
from typing import Final

from core.errors import CollectError, ImageError
from core.images import kinds
from core.images.pb.descriptors_pb2 import FownEntry, RegFileEntry
from core.images.pb.files_pb2 import REG, FileEntry
from core.images.store import ImageSet
from core.proc.text import is_printable, shown

O_DIRECTORY: Final = 0o200000
NO_OWNER: Final = FownEntry(uid=0, euid=0, signum=0, pid_type=0, pid=0)


class NamedFiles:
    """Gives every path one id and one RegFileEntry. `root` is the target's root as we see it (/proc/PID/root)."""

    def __init__(self, images: ImageSet, root: str, next_id: Callable[[], int]) -> None:
        self._images = images
        self._root = root
        self._next_id = next_id
        self.ids: dict[str, int] = {}

    def add(self, path: str, flags: int = 0) -> int:
        """Id of the file `path`, as the target names it; CollectError when it is not there."""
        if path not in self.ids:
            self._images.add(kinds.FILES, entry := self._entry(path, flags))
            self.ids[path] = entry.id
        return self.ids[path]

    def _entry(self, path: str, flags: int) -> FileEntry:
        try:
            found = os.stat(self._root + path)
        except OSError as error:
            raise CollectError(shown(path), f"cannot be looked at: {error.strerror}") from error
        if not is_printable(path):
            raise CollectError(shown(path), "its name is not UTF-8, which images cannot hold", hint="rename it")
        file_id = self._next_id()
        reg = RegFileEntry(
            id=file_id, flags=flags, pos=0, fown=NO_OWNER, name=path, mnt_id=-1, size=found.st_size, mode=found.st_mode
        )
        return FileEntry(type=REG, id=file_id, reg=reg)


def paths_by_id(images: ImageSet) -> dict[int, str]:
    """Path of every regular file entry of an image set."""
    return {entry.id: entry.reg.name for entry in images.all(kinds.FILES) if entry.type == REG}


def path_of(images: ImageSet, file_id: int) -> str:
    """Path of one of them; ImageError when the set has no such file."""
    for entry in images.all(kinds.FILES):
        if entry.id == file_id and entry.type == REG:
            return entry.reg.name
    raise ImageError("files.img", f"has no regular file {file_id}")
