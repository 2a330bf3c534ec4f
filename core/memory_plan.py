"""Compiles the address space of one task from its images: what is mapped where, with which file or segment. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from core.errors import ImageError
from core.images import kinds
from core.images.flags import VmaStatus
from core.images.pb.memory_pb2 import MmEntry, VmaEntry
from core.images.store import ImageSet
from core.memory.ranges import Ranges
from core.plan.ghost_names import GHOST_MEMORY
from core.plan.segments import SegmentNames, SegmentSpec
from core.proc.maps import Vma
from core.resources import vmas
from core.resources.named_files import paths_by_id
from core.resources.vmas import VDSO, VVAR, MappedVma


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The address space of one task: what is mapped, where it has [vdso] and its like, and the content of [vdso]."""

    mapped: tuple[MappedVma, ...]
    kernel: dict[str, tuple[int, int]]
    segments: dict[int, SegmentSpec] = field(default_factory=dict)  # every one that its images speak of
    vdso: bytes = b""  # empty: not known

    @property
    def unfilled(self) -> Ranges:
        """Where the images may have pages that do not land: the kernel's own, and rings of asynchronous I/O."""
        rings = [(one.start, one.end) for one in self.mapped if one.entry.status & VmaStatus.AIORING]
        return Ranges.of([*self.kernel.values(), *rings])

    def without_removed(self, here: Mapping[int, SegmentSpec]) -> "MemoryPlan":
        """Without the System V segments that are none of those that are `here`."""
        gone = {id for id, spec in self.segments.items() if spec.sysv is not None and id not in here}
        if not gone:
            return self
        left = {id: spec for id, spec in self.segments.items() if id not in gone}
        return replace(self, mapped=tuple(vma for vma in self.mapped if vma.segment not in gone), segments=left)

    def as_vmas(self) -> list[Vma]:
        """All of it, by borders alone: what our own area must keep out of."""
        kernel = [Vma(start, end, True, True, True, False, path=name) for name, (start, end) in self.kernel.items()]
        return as_vmas(self.mapped) + kernel


def as_vmas(mapped: Sequence[MappedVma]) -> list[Vma]:
    """VMAs to be, by borders alone."""
    return [Vma(vma.start, vma.end, True, True, True, False) for vma in mapped]


class MappedNames:
    """What the VMAs of an image set map: segments by what entries say of them, paths of files by their ids."""

    def __init__(self, images: ImageSet) -> None:
        self.segments = SegmentNames(images)
        self._paths = paths_by_id(images)

    def path_of(self, file_id: int) -> str:
        """Path of a file; ImageError when the images have none of that id."""
        if file_id not in self._paths:
            raise ImageError(kinds.FILES.file_name(), f"has no regular file {file_id}")
        return self._paths[file_id]


def memory_holders(images: ImageSet, living: Sequence[int]) -> dict[int, int]:
    """By pid of a task: who of those that share its memory has the image of it. ImageError: nobody has, or two have."""
    ids = {pid: images.one(kinds.IDS, pid).vm_id for pid in living}
    holders: dict[int, int] = {}
    for pid in living:
        if images.has(kinds.MM, pid) and holders.setdefault(ids[pid], pid) != pid:
            raise ImageError(kinds.MM.file_name(pid), f"is of the memory that pid {holders[ids[pid]]} has an image of")
    if lacking := [pid for pid, vm in ids.items() if vm not in holders]:
        raise ImageError(kinds.MM.file_name(lacking[0]), "is missing")
    return {pid: holders[vm] for pid, vm in ids.items()}


def memory_plan(images: ImageSet, pid: int, names: MappedNames | None = None) -> MemoryPlan:
    """Address space of a task, from its mm image and the files it maps. `names` of the images, if known already."""
    names = names or MappedNames(images)
    mm, segments = images.one(kinds.MM, pid), names.segments
    return MemoryPlan(mapped_vmas(images, pid, names), kernel_vmas(mm), segments.specs, mm.vdso)


def mapped_vmas(images: ImageSet, pid: int, names: MappedNames) -> tuple[MappedVma, ...]:
    """VMAs that a plan maps, with the files behind them: all but the kernel's own."""
    entries = images.one(kinds.MM, pid).vmas
    return tuple(_mapped_vma(names, entry) for entry in entries if not vmas.is_kernel_vma(entry))


def _mapped_vma(names: MappedNames, entry: VmaEntry) -> MappedVma:
    if entry.status & VmaStatus.AIORING:
        return _keep_place(entry)
    segments = names.segments
    segment = segments.of(entry)
    is_file = bool(entry.status & (vmas.FILE_PRIVATE | vmas.FILE_SHARED))
    if is_file and entry.shmid in segments.ghosts:
        return MappedVma(entry, _file_path(names, entry), GHOST_MEMORY | segments.ghosts[entry.shmid])
    if segment is None:
        return MappedVma(entry, _file_path(names, entry))
    return MappedVma(entry, segment.name, segment.id, segment.mapped_size)


def _keep_place(entry: VmaEntry) -> MappedVma:
    """Memory where the ring of a context of asynchronous I/O shall be, until there is one."""
    kept = VmaEntry(start=entry.start, end=entry.end, pgoff=0, shmid=0, fd=-1, status=entry.status)
    kept.prot = vmas.PROT_READ | vmas.PROT_WRITE
    kept.flags = vmas.MAP_SHARED | vmas.MAP_ANONYMOUS | vmas.MAP_NORESERVE
    return MappedVma(kept)


def _file_path(names: MappedNames, entry: VmaEntry) -> str:
    if not entry.status & (vmas.FILE_PRIVATE | vmas.FILE_SHARED):
        return ""
    return names.path_of(entry.shmid)


def kernel_vmas(mm: MmEntry) -> dict[str, tuple[int, int]]:
    """Where the task had [vdso], [vvar] and [vvar_vclock]: name → (start, end)."""
    found = {}
    for entry in mm.vmas:
        if entry.status & VDSO:
            found["[vdso]"] = (entry.start, entry.end)
        elif entry.status & VVAR:
            name = "[vvar_vclock]" if "[vvar]" in found else "[vvar]"
            found[name] = (entry.start, entry.end)
    return found
