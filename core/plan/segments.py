"""Shared memory that has no path: which segments the images of a tree speak of, and how tasks attach to them. Pure.

Making segments is core/resources/segment_store, finding them in a running tree core/resources/shared_memory.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from core.errors import ImageError
from core.images import kinds
from core.images.flags import VmaStatus
from core.images.pb.files_pb2 import FdTypes
from core.images.pb.filesystem_pb2 import MemfdInodeEntry
from core.images.pb.memory_pb2 import VmaEntry
from core.images.pb.namespaces_pb2 import IpcShmEntry
from core.images.store import ImageSet
from core.kernel.hugetlb import MAP_HUGETLB, flagged_size
from core.memory.ranges import PAGE_SIZE
from core.plan.ghost_names import ghosts_by_file

FIRST_ID: Final = 3 << 30  # above every PID, System V id and deleted file: pages of all of them travel in one stream
HOST_IPC, OWN_IPC = 1, 2  # numbers of IPC namespaces in images: the host's, the tree's own


class SegmentKind(Enum):
    """How a segment comes to be."""

    ANONYMOUS = "shared anonymous memory"
    MEMFD = "memfd"
    SYSV = "System V shared memory"
    FILE = "file without a path over there"  # core.resources.ghost_file


@dataclass(frozen=True, slots=True)
class SegmentSpec:
    """One segment: `id` on the way and in memory, `pages_id` of its pagemap-shmem image, `size` in bytes.

    `memfd` and `sysv` are the image's entries of those kinds.
    """

    id: int
    kind: SegmentKind
    size: int
    pages_id: int
    memfd: MemfdInodeEntry | None = None
    sysv: IpcShmEntry | None = None
    page_size: int = PAGE_SIZE

    @property
    def mapped_size(self) -> int:
        """Bytes, up to the end of a page."""
        return -(-self.size // self.page_size) * self.page_size

    @property
    def name(self) -> str:
        """How messages name it."""
        if self.memfd is not None:
            return f"memfd:{self.memfd.name}"
        if self.sysv is not None:
            return f"System V segment {self.sysv.desc.id} (key {self.sysv.desc.key:#x})"
        return f"shared anonymous memory {self.id - FIRST_ID}"


def ipc_namespace(images: ImageSet) -> int:
    """The number of the IPC namespace that a tree is in; ImageError when it is in several."""
    found = {images.one(kinds.IDS, pid).ipc_ns_id or HOST_IPC for pid in images.ids(kinds.IDS)}
    if len(found) > 1:
        raise ImageError("ids", "its tasks are in several IPC namespaces, which is not carried")
    return found.pop() if found else HOST_IPC


def has_own_ipc(images: ImageSet) -> bool:
    """Whether that is not the one of whoever dumped it."""
    root = images.one(kinds.INVENTORY).root_ids if images.has(kinds.INVENTORY) else None
    return ipc_namespace(images) != (root.ipc_ns_id if root is not None and root.ipc_ns_id else HOST_IPC)


def is_segment(entry: VmaEntry) -> bool:
    """A VMA that maps one."""
    return bool(entry.status & (VmaStatus.ANON_SHARED | VmaStatus.MEMFD | VmaStatus.SYSVIPC))


def segments_of(images: ImageSet) -> dict[int, SegmentSpec]:
    """Every segment of the images, by id."""
    found: dict[int, SegmentSpec] = {}
    for memfd in images.all(kinds.MEMFD_INODE):
        found[memfd.shmid] = SegmentSpec(
            memfd.shmid, SegmentKind.MEMFD, memfd.size, memfd.shmid, memfd=memfd,
            page_size=_page_size(memfd.hugetlb_flag, f"memfd:{memfd.name}"),
        )  # fmt: skip
    for sysv in _sysv_entries(images):
        id = sysv.segment if sysv.HasField("segment") else sysv.desc.id
        found[id] = SegmentSpec(
            id, SegmentKind.SYSV, sysv.size, sysv.desc.id, sysv=sysv,
            page_size=_page_size(sysv.hugetlb_flag, f"System V segment {sysv.desc.id}"),
        )  # fmt: skip
    for pid in images.ids(kinds.MM):
        for entry in images.one(kinds.MM, pid).vmas:
            if entry.status & VmaStatus.ANON_SHARED and not entry.status & VmaStatus.SYSVIPC:
                _add_anonymous(found, entry)
    return found


def _page_size(flags: int, subject: str) -> int:
    try:
        return flagged_size(flags)
    except ValueError as error:
        raise ImageError(subject, str(error)) from error


def _sysv_entries(images: ImageSet) -> list[IpcShmEntry]:
    return [entry for id in images.ids(kinds.IPCNS_SHM) for entry in images.all(kinds.IPCNS_SHM, id)]


def _add_anonymous(found: dict[int, SegmentSpec], entry: VmaEntry) -> None:
    """CRIU tells no size: what is mapped of it then says how large it is."""
    size = max(entry.segment_size, entry.pgoff + entry.end - entry.start)
    known = found.get(entry.shmid)
    if known is None:
        flags = entry.flags if entry.flags & MAP_HUGETLB else 0
        page_size = _page_size(flags, f"vma {entry.start:#x}-{entry.end:#x}")
        found[entry.shmid] = SegmentSpec(entry.shmid, SegmentKind.ANONYMOUS, size, entry.shmid, page_size=page_size)
    elif known.size < size:
        found[entry.shmid] = replace(known, size=size)


def merge_specs(several: Iterable[Mapping[int, SegmentSpec]]) -> dict[int, SegmentSpec]:
    """The segments of several image sets of one tree: each as told last, anonymous ones as large as any says."""
    found: dict[int, SegmentSpec] = {}
    for specs in several:
        for id, spec in specs.items():
            known = found.get(id)
            if known is None or spec.kind is not SegmentKind.ANONYMOUS or known.size < spec.size:
                found[id] = spec
    return found


def memfd_segments(images: ImageSet) -> dict[int, int]:
    """File id → segment id of every memfd; ImageError when its memory is not in the images."""
    inodes = {entry.inode_id: entry.shmid for entry in images.all(kinds.MEMFD_INODE)}
    found = {}
    for entry in images.all(kinds.FILES):
        if entry.type == FdTypes.MEMFD:
            if entry.memfd.inode_id not in inodes:
                raise ImageError("files.img", f"memfd {entry.id} has no inode in {kinds.MEMFD_INODE.file_name()}")
            found[entry.id] = inodes[entry.memfd.inode_id]
    return found


class SegmentNames:
    """Which segment a VMA of an image set maps."""

    def __init__(self, images: ImageSet) -> None:
        self.specs = segments_of(images)
        self._by_file = memfd_segments(images)
        self.ghosts = ghosts_by_file(images)
        self._by_sysv = {spec.sysv.desc.id: id for id, spec in self.specs.items() if spec.sysv is not None}

    def of(self, entry: VmaEntry) -> SegmentSpec | None:
        """The segment behind a VMA, None for other memory; ImageError when the images do not have it."""
        if not is_segment(entry):
            return None
        id = entry.shmid
        if entry.status & VmaStatus.SYSVIPC:
            id = self._by_sysv.get(entry.shmid, -1)
        elif entry.status & VmaStatus.MEMFD:
            id = self._by_file.get(entry.shmid, -1)
        if id not in self.specs:
            raise ImageError("mm", f"the area at {entry.start:#x} maps segment {entry.shmid}, which is not there")
        return self.specs[id]


@dataclass(frozen=True, slots=True)
class SegmentUse:
    """What a VMA's image says of the segment that it maps: `shmid` as the kind has it, sizes in bytes."""

    kind: SegmentKind
    shmid: int
    size: int
    page_size: int = PAGE_SIZE
