"""Shared memory without a path in a tree that runs: shared anonymous memory, memfds, System V segments.

Owns finding them, holding them open and their images; their pages go their own way (core.memory.file_pages).
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from core.errors import Blocker, CollectError, Refused
from core.images import kinds
from core.images.codec import Record
from core.images.pb.filesystem_pb2 import MemfdInodeEntry
from core.images.pb.namespaces_pb2 import IpcDescEntry, IpcShmEntry
from core.images.store import ImageSet
from core.kernel.calls import syscall
from core.kernel.hugetlb import MFD_HUGETLB, SHM_HUGETLB, page_size_of, size_flags
from core.kernel.shmem import goes_with_last, open_mapping, shmem_device
from core.memory.ranges import PAGE_SIZE
from core.plan.segments import FIRST_ID, HOST_IPC, OWN_IPC, SegmentKind, SegmentUse
from core.proc.maps import HUGE_ANONYMOUS, Vma
from core.proc.reader import ProcReader
from core.proc.sysvipc import SysvSegment

DELETED: Final = " (deleted)"
ANONYMOUS_LINKS: Final = ("/dev/zero (deleted)", HUGE_ANONYMOUS)
MEMFD_PREFIX: Final = "/memfd:"
SYSV_PREFIX: Final = "/SYSV"
F_GET_SEALS: Final = 1034
IPC_RMID: Final = 0
SHM_RDONLY: Final = 0o10000
ELSEWHERE_HINT: Final = "let it attach memory of the namespace that it is in"

Inode = tuple[int, int]
_Key = tuple[bool, int, int]  # whether it is of System V, whose ids are inode numbers; device and inode


@dataclass(frozen=True, slots=True)
class Segment:
    """One of them; `fd` is ours, for reading, and shares its position with nobody."""

    id: int
    kind: SegmentKind
    fd: int
    link: str
    page_size: int = PAGE_SIZE  # bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return os.fstat(self.fd).st_size

    @property
    def inode(self) -> Inode:
        """Device and number."""
        found = os.fstat(self.fd)
        return found.st_dev, found.st_ino


@dataclass(slots=True)
class _Said:
    """What the images that were asked for last have of segments: `ids`; `sysv`: those of System V as they were then."""

    images: ImageSet | None
    ids: set[int]
    sysv: dict[int, SysvSegment] | None = None


def kind_of_link(link: str) -> SegmentKind | None:
    """What a mapping or descriptor of this name is, if it is shared memory without a path."""
    if not link.endswith(DELETED):
        return None
    if link in ANONYMOUS_LINKS:
        return SegmentKind.ANONYMOUS
    if link.startswith(MEMFD_PREFIX):
        return SegmentKind.MEMFD
    return SegmentKind.SYSV if link.startswith(SYSV_PREFIX) and "/" not in link[1:] else None


class Segments:
    """All of a dump or a migration, one for each inode, each with a number that is never given again."""

    def __init__(self, reader: ProcReader) -> None:
        self._reader = reader
        self.own_ipc = False  # this thread is in an IPC namespace of the tree's: all in it is the tree's
        self._by_inode: dict[_Key, Segment] = {}
        self._next_id = FIRST_ID
        self._said = _Said(None, set())
        self._areas: dict[int, set[tuple[int, int]]] = {}  # who maps each where, since the last forget_unseen

    def __enter__(self) -> Self:
        """Closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Segment]:
        return iter(list(self._by_inode.values()))

    def mapped(self, pid: int, vma: Vma) -> Segment | None:
        """The segment that a VMA of `pid` maps; None for other memory.

        FileNotFoundError when it is mapped no more, CollectError when it is out of reach.
        """
        kind = kind_of_link(vma.path)
        if kind is None or vma.is_private_huge:
            return None
        known = self._by_inode.get(_key_of(vma, kind))
        if known is None:
            way = self._reader.path(pid, f"map_files/{vma.start:x}-{vma.end:x}")
            known = self._hold(kind, way, vma.path)
        self._areas.setdefault(known.id, set()).add((pid, vma.start))
        return known

    @property
    def ipc_namespace(self) -> int:
        """The number of the tree's IPC namespace in images."""
        return OWN_IPC if self.own_ipc else HOST_IPC

    def find_unattached(self) -> list[Blocker]:
        """Meet System V segments of the tree's own IPC namespace that nobody has attached; those that we must not or
        may not attach, as refusals."""
        found = []
        known = self._by_sysv_id()
        for entry in self._reader.sysv_segments() if self.own_ipc else ():
            segment = known.get(entry.id)
            if segment is None and not entry.attached and goes_with_last():
                hint = "attach it, or sysctl kernel.shm_rmid_forced=0 in there"
                reason = "nobody has it attached, and it would go when we look at it (kernel.shm_rmid_forced)"
                found.append(Blocker("shm-unattached", _describe(entry), reason, hint))
                continue
            try:
                segment = segment or self._hold_unattached(entry)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EIDRM):  # it is removed just now
                    reason = f"cannot be read: {error.strerror}"
                    found.append(Blocker("shm-unattached", _describe(entry), reason, "run migrate with CAP_IPC_OWNER"))
                continue
            self._areas.setdefault(segment.id, set())
        return found

    def _hold_unattached(self, entry: SysvSegment) -> Segment:
        address = syscall("shmat", entry.id, 0, SHM_RDONLY)
        try:
            return self._keep(SegmentKind.SYSV, open_mapping(address, os.O_RDONLY), _describe(entry))
        finally:
            syscall("shmdt", address)

    def _by_sysv_id(self) -> dict[int, Segment]:
        return {number: one for (is_sysv, _, number), one in self._by_inode.items() if is_sysv}

    def has(self, vma: Vma) -> bool:
        """Whether a VMA maps one that was met before."""
        return _key_of(vma, kind_of_link(vma.path)) in self._by_inode

    def opened(self, way: str, link: str) -> Segment | None:
        """The memfd behind a descriptor, by the path that leads to it (/proc/PID/fd/N); None when it is none."""
        if kind_of_link(link) is not SegmentKind.MEMFD:
            return None
        found = os.stat(way)
        known = self._by_inode.get((False, found.st_dev, found.st_ino))
        if known is None:
            known = self._hold(SegmentKind.MEMFD, way, link)
        self._areas.setdefault(known.id, set())
        return known

    def opened_before(self, device: int, inode: int) -> Segment | None:
        """The memfd of that inode, when it has been opened() once: what is held open keeps its number."""
        return self._by_inode.get((False, device, inode))

    def add_memfds(self, entries: Sequence[Record[MemfdInodeEntry]], images: ImageSet) -> None:
        """describe() of those that are open, with their images as memfd_entry() makes them of what they are now."""
        ids = [entry.message.shmid for entry in entries]
        self._areas = {id: set() for id in ids} | self._areas
        new = [entry for id, entry in zip(ids, entries, strict=True) if self._is_new(id, images)]
        if new:
            images.extend(kinds.MEMFD_INODE, new)

    def _hold(self, kind: SegmentKind, way: str, link: str) -> Segment:
        try:
            fd = os.open(way, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CollectError(link, f"cannot be opened: {error.strerror}") from error
        return self._keep(kind, fd, link)

    def _keep(self, kind: SegmentKind, fd: int, link: str) -> Segment:
        """`fd` is ours from now on."""
        found = os.fstat(fd)
        page_size = page_size_of(fd)
        if found.st_dev != shmem_device() and page_size == PAGE_SIZE:
            os.close(fd)
            raise CollectError(link, "is shared memory of an unknown kind")
        segment = Segment(self._next_id, kind, fd, link, page_size)
        self._next_id += 1
        self._by_inode[kind is SegmentKind.SYSV, found.st_dev, found.st_ino] = segment
        return segment

    def forget_unseen(self) -> set[int]:
        """Give up those that nobody has mentioned since the last call; their ids."""
        gone = {key: segment for key, segment in self._by_inode.items() if segment.id not in self._areas}
        for key, segment in gone.items():
            os.close(segment.fd)
            del self._by_inode[key]
        self._areas.clear()
        return {segment.id for segment in gone.values()}

    def refuse_attached(self) -> list[Blocker]:
        """System V segments that others have attached, by what was looked at since the last forget_unseen; and those
        that refuse_elsewhere names, even if the tree's own namespace has one of that number too."""
        sysv, found = self._by_sysv_id(), self.refuse_elsewhere()
        for entry in self._reader.sysv_segments() if sysv else ():
            subject = _describe(entry)
            segment = sysv.get(entry.id)
            others = entry.attached - len(self._areas.get(segment.id, ())) if segment is not None else 0
            if others > 0:
                reason = f"is attached {others} times outside of the tree too (process {entry.last_pid} did so last)"
                found.append(Blocker("shm-attached", subject, reason, "move all who share it as one tree"))
            elif others < 0 and self.own_ipc:
                reason = "is not the one of this number that the tree has attached: that is of another IPC namespace"
                found.append(Blocker("shm-elsewhere", subject, reason, ELSEWHERE_HINT))
        return found

    def refuse_elsewhere(self) -> list[Blocker]:
        """Those that the tree attached in another IPC namespace than it is in."""
        mapped = {id: one for id, one in self._by_sysv_id().items() if self._areas.get(one.id)}
        here = {entry.id for entry in self._reader.sysv_segments()} if mapped else set()
        reason = "was attached in another IPC namespace than the tree is in"
        return [
            Blocker("shm-elsewhere", f"System V segment {id}", reason, ELSEWHERE_HINT)
            for id in sorted(set(mapped) - here)
        ]

    def remove_moved(self) -> None:
        """The tree is gone from here: so are the System V segments that it alone had. Those still attached stay."""
        known = self._by_sysv_id()
        for entry in self._reader.sysv_segments() if known else ():
            if entry.id in known and not entry.attached:
                syscall("shmctl", entry.id, IPC_RMID, 0)

    def describe(self, segment: Segment, images: ImageSet) -> SegmentUse:
        """Add its image, unless `images` have it; what images of VMAs say of it (a memfd's use is its file's).

        FileNotFoundError when it is gone.
        """
        match segment.kind:
            case SegmentKind.ANONYMOUS:
                return SegmentUse(segment.kind, segment.id, segment.size, segment.page_size)
            case SegmentKind.FILE:
                raise ValueError("files are described elsewhere")
            case SegmentKind.MEMFD:
                if self._is_new(segment.id, images):
                    found, seals = os.fstat(segment.fd), fcntl.fcntl(segment.fd, F_GET_SEALS)
                    images.add(kinds.MEMFD_INODE, memfd_entry(segment, found, seals))
                return SegmentUse(segment.kind, segment.id, segment.size)
            case SegmentKind.SYSV:
                entry = self._sysv_entry(segment, images)
                if self._is_new(segment.id, images):
                    images.add(kinds.IPCNS_SHM, entry, self.ipc_namespace)
                return SegmentUse(segment.kind, entry.desc.id, entry.size)

    def collect_unattached(self, images: ImageSet) -> None:
        """Add the images of those that no process speaks of. Refused."""
        if blockers := self.find_unattached():
            raise Refused(blockers)
        for segment in self:
            if segment.kind is SegmentKind.SYSV:
                with suppress(FileNotFoundError):  # it was removed before it was frozen
                    self.describe(segment, images)

    def _said_in(self, images: ImageSet) -> _Said:
        if self._said.images is not images:
            memfds = {entry.shmid for entry in images.all(kinds.MEMFD_INODE)}
            sysv = {entry.segment for entry in images.all(kinds.IPCNS_SHM, self.ipc_namespace)}
            self._said = _Said(images, memfds | sysv)
        return self._said

    def _is_new(self, id: int, images: ImageSet) -> bool:
        """True for one that `images` do not have yet; from now on they do."""
        ids = self._said_in(images).ids
        is_new = id not in ids
        ids.add(id)
        return is_new

    def _sysv_entry(self, segment: Segment, images: ImageSet) -> IpcShmEntry:
        said, id = self._said_in(images), os.fstat(segment.fd).st_ino
        if said.sysv is None:
            said.sysv = {one.id: one for one in self._reader.sysv_segments()}
        found = said.sysv.get(id)
        if found is None:
            raise FileNotFoundError(f"{segment.link}: is not among the System V segments of this IPC namespace")
        desc = IpcDescEntry(
            key=found.key, uid=found.uid, gid=found.gid, cuid=found.cuid, cgid=found.cgid, mode=found.mode, id=id
        )
        entry = IpcShmEntry(desc=desc, size=found.size, in_pagemaps=True, segment=segment.id)
        if flags := size_flags(segment.page_size):
            entry.hugetlb_flag = SHM_HUGETLB | flags
        return entry

    def close(self) -> None:
        """Close all of ours. Idempotent."""
        for segment in self._by_inode.values():
            os.close(segment.fd)
        self._by_inode.clear()


def _key_of(vma: Vma, kind: SegmentKind | None) -> _Key:
    return kind is SegmentKind.SYSV, os.makedev(*vma.device), vma.inode


def _describe(entry: SysvSegment) -> str:
    return f"System V segment {entry.id} (key {entry.key:#x})"


def memfd_entry(segment: Segment, found: os.stat_result, seals: int) -> MemfdInodeEntry:
    """Its image, of what fstat(2) and F_GET_SEALS tell."""
    entry = MemfdInodeEntry(
        name=segment.link.removeprefix(MEMFD_PREFIX).removesuffix(DELETED), uid=found.st_uid, gid=found.st_gid,
        size=found.st_size, shmid=segment.id, seals=seals, inode_id=segment.id, mode=stat.S_IMODE(found.st_mode),
    )  # fmt: skip
    if flags := size_flags(segment.page_size):
        entry.hugetlb_flag = MFD_HUGETLB | flags
    return entry
