"""A process's address space as an image: its VMAs, what they map, its marks.

Most of it can be made while the process runs, and is good in the freeze where what it was made of is the same.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial

from core.ids.tree import count_from
from core.images import kinds
from core.images.pb.memory_pb2 import MmEntry, VmaEntry
from core.images.store import ImageSet
from core.plan.segments import SegmentKind, SegmentUse
from core.proc.auxv import parse_auxv
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.proc.stat import Stat, parse_stat
from core.resources import address_space, vma_marks, vmas
from core.resources.ghost_file import Ghosts
from core.resources.named_files import NamedFiles
from core.resources.shared_memory import Segments

DELETED = " (deleted)"


def _renumber(entry: VmaEntry, vma: Vma, files: NamedFiles) -> VmaEntry:
    """The entry, with the number that its file has among `files`."""
    if vma.path.startswith("/"):
        entry.shmid = files.add(vma.path)
    return entry


def collect_mm(
    pid: int, vma_list: Sequence[Vma], flags: dict[int, frozenset[str]], files: NamedFiles, ghosts: Ghosts,
    segments: Segments, known: Sequence[VmaEntry] = (),
) -> list[VmaEntry]:  # fmt: skip
    """Entries of all VMAs; files they map are added to `files` and `ghosts`, other shared memory to `segments`.

    `known`: what they were when the same VMAs were collected with other files, whose numbers they lose.
    """
    reader, entries = ProcReader(), []
    known = known if len(known) == len(vma_list) else ()  # else some were gone when they were looked at
    for index, vma in enumerate(vma_list):
        if known and not vma.shared and not vma.path.endswith(DELETED):
            entries.append(_renumber(known[index], vma, files))
            continue
        try:
            use = _collect_use(pid, vma, _may_write(vma, flags), files, ghosts, segments, reader)
        except FileNotFoundError:  # it runs, and has unmapped it since: the next look tells
            continue
        if known and use is None and not vma.path.endswith(DELETED):
            entries.append(_renumber(known[index], vma, files))
            continue
        if use is None and vma.path.startswith("/") and not (vma.is_private_huge or vma.is_aio_ring):
            files.add(vma.path)
        entries.append(vmas.collect(vma, flags_of(vma, flags), files.ids, use))
        vma_marks.collect(entries[-1], vma, flags_of(vma, flags))
    return entries


def meet(
    pid: int, vma_list: Sequence[Vma], flags: dict[int, frozenset[str]], files: NamedFiles, ghosts: Ghosts,
    segments: Segments,
) -> tuple[SegmentUse | None, ...]:  # fmt: skip
    """What these VMAs map, as collect_mm() finds it: the rest of an entry is told by the VMA itself and its flags."""
    reader, uses = ProcReader(), []
    for vma in vma_list:
        with suppress(FileNotFoundError):  # as above
            uses.append(_collect_use(pid, vma, _may_write(vma, flags), files, ghosts, segments, reader))
    return tuple(uses)


def _collect_use(
    pid: int, vma: Vma, may_write: bool, files: NamedFiles, ghosts: Ghosts, segments: Segments, reader: ProcReader
) -> SegmentUse | None:
    """What the VMA maps that has no path over there. FileNotFoundError when it is mapped no more."""
    if (segment := segments.mapped(pid, vma)) is not None:
        use = segments.describe(segment, files.images)
        return replace(use, shmid=files.add_memfd(segment.id)) if use.kind is SegmentKind.MEMFD else use
    ghost = ghosts.add_mapped(pid, vma, reader, writable=may_write)
    if ghost is None:
        return None
    found, tell = os.fstat(ghost.fd), partial(ghosts.describe_as, files.images, ghost=ghost)
    return SegmentUse(SegmentKind.FILE, files.add_ghost(ghost.id, ghost.path, found, tell), found.st_size)


def _may_write(vma: Vma, flags: dict[int, frozenset[str]]) -> bool:
    return vma.shared and (vma.writable or "mw" in flags_of(vma, flags))


def flags_of(vma: Vma, flags: dict[int, frozenset[str]]) -> frozenset[str]:
    """VmFlags of a VMA as last read, none for one that is new."""
    return flags.get(vma.start, frozenset())


@dataclass(frozen=True, slots=True)
class Space:
    """An address space as it was looked at: its VMAs, and what was made of them: none while they are new."""

    pid: int
    vmas: Sequence[Vma]
    entries: Sequence[VmaEntry]


def memory_image(
    space: Space, own_pid: int, vdso: bytes, flags: dict[int, frozenset[str]], ghosts: Ghosts, segments: Segments
) -> tuple[ImageSet, Sequence[VmaEntry]]:
    """VMAs and the files they map, what a skeleton is made from; and the entries. `vdso`: content of its [vdso]."""
    images = ImageSet()
    named = NamedFiles(images, f"/proc/{space.pid}/root", count_from(1))
    entries = collect_mm(space.pid, space.vmas, flags, named, ghosts, segments, space.entries)
    mm = address_space.bare_mm(entries)
    mm.vdso = vdso
    images.add(kinds.MM, mm, own_pid)
    return images, entries


@dataclass(slots=True)
class _Foreseen:
    """An image made of all that is below, but for what only the process can tell. `files`: with their numbers."""

    entries: Sequence[VmaEntry]
    marks: tuple[int, ...]
    auxv: bytes
    image: MmEntry
    files: Sequence[tuple[str, int]]


@dataclass(slots=True)
class ForeseenSpaces:
    """Images of address spaces made while their processes run, each for one use. By pid.

    `numbers`: those of the files that they map, by path.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    _known: dict[int, _Foreseen] = field(default_factory=dict)

    def look(self, spaces: Sequence[Space], reader: ProcReader, next_id: Callable[[], int]) -> None:
        """Make those that have changed; these are all there are. `next_id`: number of a file that had none."""
        kept = {}
        todo = []
        for one in spaces:
            known = self._known.get(one.pid)
            if known is not None and known.entries is one.entries:
                kept[one.pid] = known
            elif len(one.entries) == len(one.vmas) and not any(vma.path.endswith(DELETED) for vma in one.vmas):
                todo.append(one)
        self._known = kept
        found = reader.contents([(one.pid, name) for one in todo for name in ("stat", "auxv")])
        for one, stat, auxv in zip(todo, found[::2], found[1::2], strict=True):
            if isinstance(stat, bytes) and isinstance(auxv, bytes):  # else it has ended
                self._known[one.pid] = self._foresee(one, parse_stat(os.fsdecode(stat)), auxv, next_id)

    def _foresee(self, one: Space, stat: Stat, auxv: bytes, next_id: Callable[[], int]) -> _Foreseen:
        files: dict[str, int] = {}
        image = address_space.begin(stat, parse_auxv(auxv), one.entries)
        for entry, vma in zip(image.vmas, one.vmas, strict=True):
            if vma.path.startswith("/"):
                if vma.path not in self.numbers:
                    self.numbers[vma.path] = next_id()
                entry.shmid = files[vma.path] = self.numbers[vma.path]
        return _Foreseen(one.entries, address_space.marks_of(stat), auxv, image, tuple(files.items()))

    def take(self, pid: int, entries: Sequence[VmaEntry], stat: Stat, auxv: bytes, named: NamedFiles) -> MmEntry | None:
        """The image of a frozen process whose memory is `entries`, made before or None. What it maps from files has
        paths, which are added to `named`."""
        one = self._known.pop(pid, None)
        if one is None or one.entries is not entries or one.marks != address_space.marks_of(stat) or one.auxv != auxv:
            return None
        numbers = [named.add(path) for path, _ in one.files]
        return one.image if numbers == [number for _, number in one.files] else None
