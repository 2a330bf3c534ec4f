"""Makes files and directories that have no name: filled while they have none, then shown under a passing name.

A file is made by O_TMPFILE, so nothing is left of it when we die; its content may land long before it is opened.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import Blocker, Refused, RestoreError
from core.images import kinds
from core.images.ghosts import GhostImage
from core.images.pb.filesystem_pb2 import GhostFileEntry, Timeval
from core.images.store import ImageSet
from core.kernel.calls import address_of, syscall
from core.kernel.leftovers import Leftovers, sweep
from core.memory.file_pages import LandingFile
from core.plan.ghost_names import GHOST_MEMORY, ghost_paths, linked_names, passing_name
from core.plan.ops import path_argument
from core.proc.reader import ProcReader

AT_FDCWD: Final = -100
AT_SYMLINK_FOLLOW: Final = 0x400
NO_TMPFILE: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


@dataclass(slots=True)
class _Made:
    """One ghost here: `fd` -1 for a directory or a FIFO; `named`: it has its passing name all the time."""

    path: str
    fd: int
    named: bool
    keeps_name: bool = False
    scratch: int = -1  # where content lands that is here already: both sides have the same file


class GhostStore:
    """The ghosts of one restore. `close` on every way out."""

    def __init__(self) -> None:
        self._made: dict[int, _Made] = {}
        self._created: dict[str, os.stat_result] = {}  # files that keep their names, by these
        self._leftovers = Leftovers()

    def make(self, images: ImageSet) -> None:
        """Make those of `images` that are not there yet, empty; Refused when their directories are not here. Those that
        are not in `images` go first: a file that was renamed leaves its name to another."""
        paths = ghost_paths(images)
        if blockers := [found for path in paths.values() if (found := refuse_folder(path)) is not None]:
            raise Refused(blockers)
        self._drop(set(self._made) - set(paths))
        for id, path in paths.items():
            entry = _head(images, id)
            if id not in self._made:
                self._made[id] = self._make(id, path, entry)
            _grow(self._made[id], entry.size)

    def _make(self, id: int, path: str, entry: GhostFileEntry) -> _Made:
        if entry.keeps_name:
            sweep()
            kept = _make_kept(path, entry, self._leftovers)
            if kept.scratch < 0:
                self._created[path] = os.fstat(kept.fd)
            return kept
        name = passing_name(path, id, os.getpid())
        if stat.S_ISDIR(entry.mode) or stat.S_ISFIFO(entry.mode):
            return _Made(name, -1, False)
        if not stat.S_ISREG(entry.mode):
            raise RestoreError(f"{path}: is a deleted file of a kind that is not carried")
        try:
            return _Made(name, *_make_file(name))
        except OSError as error:
            raise RestoreError(f"{path} (deleted): cannot be made: {error.strerror}") from error

    def _drop(self, ids: Iterable[int]) -> None:
        for id in ids:
            self._forget(gone := self._made.pop(id))
            if gone.path in self._created:
                self._remove(gone.path)

    def landing(self, id: int) -> LandingFile:
        """Where the content of ghost `id` lands."""
        made = self._made[id]
        return LandingFile(made.fd if made.scratch < 0 else made.scratch)

    def fd(self, id: int) -> int:
        """Ours of a ghost's file, by its number among the memories; RestoreError when there is none."""
        made = self._made.get(id & ~GHOST_MEMORY)
        if made is None or made.fd < 0:
            raise RestoreError(f"mapped file {id & ~GHOST_MEMORY}: its content did not come")
        return made.fd

    def write(self, id: int, offset: int, content: bytes) -> None:
        """Content from a file of images. RestoreError."""
        try:
            while content and self._made[id].scratch < 0:
                written = os.pwrite(self._made[id].fd, content, offset)
                content, offset = content[written:], offset + written
        except OSError as error:
            raise RestoreError(f"{self._made[id].path}: cannot be written: {error.strerror}") from error

    def ids(self) -> list[int]:
        """Ghosts that have content."""
        return [id for id, made in self._made.items() if made.fd >= 0]

    def abandon(self) -> None:
        """The restore failed: files that were made with their names go. Idempotent."""
        for path in list(self._created):
            self._remove(path)
        self._leftovers.clear()

    def _remove(self, path: str) -> None:
        """If it is the one that was made: somebody may have put another there."""
        made = self._created.pop(path)
        with suppress(OSError):
            if os.path.samestat(os.lstat(path), made):
                os.unlink(path)

    def commit(self) -> None:
        """The tasks are about to run: all of it is theirs."""
        self._leftovers.clear()

    def settle(self, images: ImageSet) -> None:
        """All content has landed: sizes, owners, modes and times as in `images`; those that are not there go."""
        wanted = set(ghost_paths(images))
        if missing := wanted - set(self._made):
            if any(stat.S_ISREG(_head(images, id).mode) for id in missing):
                raise RestoreError("the content of a deleted file did not come")
            self.make(images)
        self._drop(set(self._made) - wanted)
        for id, made in self._made.items():
            entry = _head(images, id)
            if made.fd >= 0 and made.scratch < 0:
                if entry.HasField("size"):
                    os.ftruncate(made.fd, entry.size)
                os.fchown(made.fd, entry.uid, entry.gid)
                os.fchmod(made.fd, stat.S_IMODE(entry.mode))
                for xattr in entry.xattrs:
                    with suppress(OSError):  # a file system without them, or a name that belongs to its security module
                        os.setxattr(made.fd, xattr.name, xattr.value)
                os.utime(made.fd, ns=(_nanoseconds(entry.atim), _nanoseconds(entry.mtim)))

    @contextmanager
    def shown(self, images: ImageSet) -> Iterator[None]:
        """Every ghost has its passing name, for the time of the with block."""
        try:
            for id, made in self._made.items():
                self._show(made, _head(images, id))
            yield
        finally:
            for made in self._made.values():
                self._hide(made)

    def _show(self, made: _Made, entry: GhostFileEntry) -> None:
        try:
            if made.fd < 0:
                os.mkdir(made.path, 0o700) if stat.S_ISDIR(entry.mode) else os.mkfifo(made.path, 0o600)
                os.chown(made.path, entry.uid, entry.gid)
                os.chmod(made.path, stat.S_IMODE(entry.mode))
            elif not made.named and not made.keeps_name:
                _link(made.fd, made.path)
                made.named = True
        except OSError as error:
            raise RestoreError(f"{made.path}: cannot be made: {error.strerror}") from error

    def _hide(self, made: _Made) -> None:
        with suppress(FileNotFoundError):
            if made.fd < 0 and os.path.isdir(made.path):
                os.rmdir(made.path)
            elif made.fd < 0 or made.named:
                os.unlink(made.path)
                made.named = False

    def unlink_remaps(self, images: ImageSet) -> None:
        """The names that were made for files which had lost theirs: nobody needs them any more."""
        for path in set(linked_names(images).values()):
            with suppress(OSError):
                os.unlink(path)

    def _forget(self, made: _Made) -> None:
        self._hide(made)
        for fd in (made.fd, made.scratch):
            if fd >= 0:
                os.close(fd)

    def close(self) -> None:
        """Nothing of ours stays; what is open in a task lives on there. Idempotent."""
        for made in self._made.values():
            self._forget(made)
        self._made.clear()


def refuse_folder(path: str, root: str = "/") -> Blocker | None:
    """A ghost needs a directory, below `root`, on the file system that it was on."""
    folder = path.rpartition("/")[0] or "/"
    if os.path.isdir(root.rstrip("/") + folder):
        return None
    return Blocker("file-missing", path, f"is made in {folder}, which is not there", "make it, or mount it")


def _make_file(name: str) -> tuple[int, bool]:
    folder = name.rpartition("/")[0] or "/"
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600), False
    except OSError as error:
        if error.errno not in NO_TMPFILE:
            raise
    return os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600), True


def _grow(made: _Made, size: int) -> None:
    """Private pages land in mappings of the file, which has to reach there."""
    if made.fd >= 0 and made.scratch < 0 and os.fstat(made.fd).st_size < size:
        os.ftruncate(made.fd, size)


def _link(fd: int, path: str) -> None:
    source, target = path_argument(f"/proc/self/fd/{fd}"), path_argument(path)
    syscall("linkat", AT_FDCWD, address_of(source), AT_FDCWD, address_of(target), AT_SYMLINK_FOLLOW)


def _make_kept(path: str, entry: GhostFileEntry, leftovers: Leftovers) -> _Made:
    """A file that has its name over there; noted before it has one here. Refused when another has that here."""
    try:
        made, is_named = _make_file(path)
        try:
            leftovers.note_file(path, made)
            if not is_named:
                _link(made, path)
            # Anew: what was opened without a name never shows one.
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        finally:
            os.close(made)
        return _Made(path, fd, False, keeps_name=True)
    except FileExistsError:
        found = os.stat(path)
        if (entry.boot_id, entry.dev, entry.ino) == (ProcReader().boot_id(), found.st_dev & 0xFFFFFFFF, found.st_ino):
            scratch = os.memfd_create("migrate")
            return _Made(path, os.open(path, os.O_RDWR | os.O_CLOEXEC), False, keeps_name=True, scratch=scratch)
        hint = "remove it there, if nobody needs it"
        raise Refused(
            [Blocker("file-exists", path, "goes along, and another file has that name over there", hint)]
        ) from None
    except OSError as error:
        raise RestoreError(f"{path}: cannot be made: {error.strerror}") from error


def _head(images: ImageSet, id: int) -> GhostFileEntry:
    entry = images.all(kinds.GHOST_FILE, id)[0]
    if not isinstance(entry, GhostFileEntry):
        raise RestoreError(f"{kinds.GHOST_FILE.file_name(id)}: does not begin with its head")
    return entry


def _nanoseconds(time: Timeval) -> int:
    return time.tv_sec * 10**9 + time.tv_usec * 1000


def fill_ghosts(ghosts: GhostStore, directory: Path) -> None:
    """What deleted files held."""
    for id in ghosts.ids():
        with GhostImage(directory / kinds.GHOST_FILE.file_name(id)) as image:
            for offset, content in image.content():
                ghosts.write(id, offset, content)
