"""Files, directories and FIFOs that are open and have no name left (ghosts): told apart, held, described.

Their content goes as pages do (core.images.ghosts, core.memory.file_pages); making them anew is ghost_store.
"""

import os
import stat
from collections.abc import Container, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from core.errors import CollectError
from core.images import kinds
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.filesystem_pb2 import GHOST, LINKED, GhostFileEntry, GhostXattr, RemapFilePathEntry, Timeval
from core.images.store import ImageSet
from core.kernel.calls import address_of, syscall
from core.plan.ghost_names import DELETED, last_name
from core.plan.ops import path_argument
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.resources.context import leads_to

AT_FDCWD: Final = -100
AT_SYMLINK_FOLLOW: Final = 0x400
DEVICE_MASK: Final = 0xFFFFFFFF
SYS_FSTATFS, STATFS_SIZE, TMPFS_MAGIC = 138, 120, 0x01021994


@dataclass(slots=True)
class Ghost:
    """One of them; `fd` is our way to its inode. For all but a regular file there is nothing but that it was there."""

    id: int
    fd: int
    path: str
    keeps_name: bool = False  # a file of a tmpfs, or one that is chosen, which the other side does not have
    on_tmpfs: bool = False
    mapped: bool = False  # as of the last look
    shared: bool = False  # as of the last look some mapping of it is

    @property
    def has_content(self) -> bool:
        """A file, not a directory."""
        return stat.S_ISREG(os.fstat(self.fd).st_mode)

    def entry(self) -> GhostFileEntry:
        """Its image, as it is now."""
        found = os.fstat(self.fd)
        entry = GhostFileEntry(
            uid=found.st_uid, gid=found.st_gid, mode=found.st_mode, dev=found.st_dev & DEVICE_MASK, ino=found.st_ino,
            atim=_timeval(found.st_atime_ns), mtim=_timeval(found.st_mtime_ns),
        )  # fmt: skip
        if stat.S_ISREG(found.st_mode):
            entry.chunks, entry.size = True, found.st_size
        if self.keeps_name:
            entry.keeps_name, entry.boot_id = True, ProcReader().boot_id()
            entry.xattrs.extend(_read_xattrs(self.fd))
        return entry


def is_on_tmpfs(fd: int) -> bool:
    """Whether the file goes with its host's memory."""
    found = bytearray(STATFS_SIZE)
    syscall(SYS_FSTATFS, fd, address_of(found))
    return int.from_bytes(found[:8], "little") == TMPFS_MAGIC


def _timeval(time_ns: int) -> Timeval:
    seconds, rest = divmod(time_ns, 10**9)
    return Timeval(tv_sec=seconds & 0xFFFFFFFFFFFFFFFF, tv_usec=rest // 1000)


def _read_xattrs(fd: int) -> Iterator[GhostXattr]:
    """All that a file has; none where its file system has no such thing."""
    names: list[str] = []
    with suppress(OSError):
        names = os.listxattr(fd)
    for name in names:
        with suppress(OSError):  # removed meanwhile
            yield GhostXattr(name=os.fsencode(name), value=os.getxattr(fd, name))


def is_ghost(found: os.stat_result) -> bool:
    """Without a name, and of a kind that can be made anew: a regular file, a directory or a FIFO."""
    kinds_made = stat.S_ISREG, stat.S_ISDIR, stat.S_ISFIFO
    return not found.st_nlink and any(is_kind(found.st_mode) for is_kind in kinds_made)


class Ghosts:
    """All ghosts of a dump or a migration, one for each inode; `close` gives them back. `chosen`: paths of files that
    are carried although they have a name."""

    def __init__(self, chosen: frozenset[str] = frozenset()) -> None:
        self.chosen = chosen
        self._by_inode: dict[tuple[int, int], Ghost] = {}
        self._last_id = 0
        self._links: list[str] = []
        self._tmpfs: dict[tuple[int, int], bool] = {}  # by device

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.undo_links()
        self.close()

    def __iter__(self) -> Iterator[Ghost]:
        return iter(list(self._by_inode.values()))

    def add(self, fd: int, link: str, root: str, *, keeps_name: bool = False) -> Ghost:
        """The ghost behind `fd`, which stays the caller's; `link`: the kernel's name for it below the directory `root`.

        It is held open anew: nobody shares the position of `Ghost.fd`.
        """
        found = os.fstat(fd)
        key = found.st_dev, found.st_ino
        if key not in self._by_inode:
            access = os.O_RDONLY if stat.S_ISREG(found.st_mode) else os.O_PATH
            ours = os.open(f"/proc/self/fd/{fd}", access | os.O_CLOEXEC)
            self._last_id += 1
            path = link if keeps_name else living_path(last_name(link), root)
            self._by_inode[key] = Ghost(self._last_id, ours, path, keeps_name, on_tmpfs=is_on_tmpfs(ours))
        return self._by_inode[key]

    def begin_look(self) -> None:
        """What is mapped is told anew."""
        for ghost in self:
            ghost.mapped = ghost.shared = False

    def add_mapped(self, pid: int, vma: Vma, reader: ProcReader, *, writable: bool) -> Ghost | None:
        """The file that a VMA of `pid` maps, if it has no name, or is shared and chosen or of a tmpfs; None for others.

        `writable`: the VMA is shared and the task may write to it. FileNotFoundError when it is mapped no more,
        CollectError when the file is out of reach.
        """
        deleted = vma.path.endswith(DELETED)
        if (
            not vma.inode
            or not vma.path.startswith("/")
            or vma.is_private_huge
            or vma.is_aio_ring
            or not (deleted or (writable and (vma.path in self.chosen or self._on_tmpfs(pid, vma, reader))))
        ):
            return None
        root = reader.path(pid, "root")
        if deleted and os.path.lexists(root + vma.path):
            return None
        fd = _open_mapped(pid, vma, reader)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            ghost = self.add(fd, vma.path, root, keeps_name=not deleted)
        finally:
            os.close(fd)
        ghost.mapped, ghost.shared = True, ghost.shared or vma.shared
        return ghost

    def trackable(self, vma: Vma) -> bool:
        """Whether a VMA maps one that is on a tmpfs: there device and inode are what they seem."""
        ghost = self._by_inode.get((os.makedev(*vma.device), vma.inode))
        return ghost is not None and ghost.on_tmpfs

    def _on_tmpfs(self, pid: int, vma: Vma, reader: ProcReader) -> bool:
        if vma.device not in self._tmpfs:
            fd = _open_mapped(pid, vma, reader)
            try:
                self._tmpfs[vma.device] = is_on_tmpfs(fd)
            finally:
                os.close(fd)
        return self._tmpfs[vma.device]

    def describe(self, images: ImageSet, root: str, entry: FileEntry, fd: int, link: str) -> None:
        """Add to `images` that file `entry` is the ghost behind `fd`, and give it a path; see add."""
        self.describe_as(images, entry, self.add(fd, link, root))

    def describe_as(self, images: ImageSet, entry: FileEntry, ghost: Ghost) -> None:
        """The same for a ghost that is known."""
        entry.reg.name = ghost.path
        images.add(kinds.REMAP_FPATH, RemapFilePathEntry(orig_id=entry.id, remap_id=ghost.id, remap_type=GHOST))
        if not images.has(kinds.GHOST_FILE, ghost.id):
            images.add(kinds.GHOST_FILE, ghost.entry(), ghost.id)

    def link_beside(self, images: ImageSet, root: str, entry: FileEntry, fd: int, id: int) -> None:
        """Give file `entry` behind `fd`, which has lost its name, another in the same place: file `id` of `images`."""
        folder = living_path(entry.reg.name, root).rpartition("/")[0]
        path = f"{folder}/link_remap.{os.getpid():x}.{id}"
        source, target = path_argument(f"/proc/self/fd/{fd}"), path_argument(root + path)
        try:
            syscall("linkat", AT_FDCWD, address_of(source), AT_FDCWD, address_of(target), AT_SYMLINK_FOLLOW)
        except OSError as error:
            raise CollectError(entry.reg.name, f"--link-remap: {path}: cannot be made: {error.strerror}") from error
        self._links.append(root + path)
        linked = FileEntry(type=FdTypes.REG, id=id)
        linked.reg.CopyFrom(entry.reg)
        linked.reg.id, linked.reg.name = id, path
        images.add(kinds.FILES, linked)
        images.add(kinds.REMAP_FPATH, RemapFilePathEntry(orig_id=entry.id, remap_id=id, remap_type=LINKED))

    def undo_links(self) -> None:
        """Nothing will come of the images: what link_beside made goes. Idempotent."""
        while self._links:
            with suppress(OSError):
                os.unlink(self._links.pop())

    def check_names(self) -> None:
        """CollectError when one that is carried with its name, and used, has lost it since it was met."""
        for ghost in self:
            is_used = ghost.keeps_name and (ghost.mapped or ghost.path in self.chosen)
            if is_used and not leads_to(ghost.path, os.fstat(ghost.fd)):
                raise CollectError(ghost.path, "was deleted, renamed or replaced while it went over", hint="try again")

    def remove_moved(self) -> None:
        """The tree is gone from here, so are its files of a tmpfs that were carried although they had a name."""
        for ghost in self:
            if ghost.keeps_name and ghost.path not in self.chosen and leads_to(ghost.path, os.fstat(ghost.fd)):
                with suppress(OSError):
                    os.unlink(ghost.path)

    def keep(self, ids: Container[int]) -> None:
        """Let go of all others."""
        for key, ghost in list(self._by_inode.items()):
            if ghost.id not in ids:
                os.close(self._by_inode.pop(key).fd)

    def close(self) -> None:
        """Close all of ours. Idempotent."""
        for ghost in self._by_inode.values():
            os.close(ghost.fd)
        self._by_inode.clear()


def _open_mapped(pid: int, vma: Vma, reader: ProcReader) -> int:
    try:
        way = reader.path(pid, f"map_files/{vma.start:x}-{vma.end:x}")
        return os.open(way, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CollectError(vma.path, f"is mapped and cannot be opened: {error.strerror}") from error


def living_path(path: str, root: str) -> str:
    """The path, or where its directory is gone too, one of the same name in the nearest that is there."""
    folder, _, name = path.rpartition("/")
    while folder and not os.path.isdir(root + folder):
        folder = folder.rpartition("/")[0]
    return f"{folder}/{name}"
