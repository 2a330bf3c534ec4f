"""The mould: memory that several tasks have in common, put into the first skeleton before the others are born of it.

Every task inherits it by fork(2) and keeps what it has of it: those pages stay shared. Pure.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from core.images.pb.memory_pb2 import VmaEntry
from core.kernel.hugetlb import MAP_HUGETLB
from core.memory.ranges import EMPTY, Ranges
from core.memory.sharing import repeated
from core.resources import vmas
from core.resources.vmas import MappedVma

NOT_INHERITED = vmas.MAP_GROWSDOWN | MAP_HUGETLB


def mould_vmas(tasks: Iterable[Sequence[MappedVma]]) -> tuple[MappedVma, ...]:
    """The VMAs in which these address spaces may have pages in common, each as large as any of them has it.

    So a task's own VMA is a piece of the mould's: the kernel never joins an inherited VMA with a new one beside it.
    Where two kinds of memory lie at the same address the one that more tasks have wins. All may be written: a
    task's own protection comes later.
    """
    kinds: dict[tuple[object, ...], list[MappedVma]] = defaultdict(list)
    for mapped in tasks:
        for vma in mapped:
            own = vmas.carries_pages(vma.entry) and not vma.segment
            if own and not vma.entry.flags & NOT_INHERITED:
                kinds[vmas.backing(vma)].append(vma)
    found = [(len(members), extent) for same in kinds.values() for extent, members in _extents(same)]
    chosen: dict[int, MappedVma] = {}
    taken = EMPTY
    for count, extent in sorted(found, key=lambda one: (-one[0], one[1].start)):
        if count > 1 and not taken.overlaps(extent.start, extent.end):
            taken = taken.union(Ranges.of([(extent.start, extent.end)]))
            chosen[extent.start] = extent
    return tuple(chosen[start] for start in sorted(chosen))


def _extents(same: list[MappedVma]) -> list[tuple[MappedVma, list[MappedVma]]]:
    """VMAs of one kind that overlap or touch, joined, with those that each is made of."""
    found: list[tuple[int, list[MappedVma]]] = []
    for vma in sorted(same, key=lambda vma: vma.start):
        if found and vma.start <= found[-1][0]:
            end, members = found.pop()
            found.append((max(end, vma.end), [*members, vma]))
        else:
            found.append((vma.end, [vma]))
    return [(_extent(members[0], end), members) for end, members in found]


def _extent(first: MappedVma, end: int) -> MappedVma:
    entry = VmaEntry()
    entry.CopyFrom(first.entry)
    entry.end, entry.prot = end, vmas.PROT_READ | vmas.PROT_WRITE
    entry.ClearField(
        "madv"
    )  # what a task advised comes later, too: MADV_DONTFORK would keep it from being born with it
    return replace(first, entry=entry)


def candidates(mapped: Mapping[int, Sequence[MappedVma]], carried: Mapping[int, Ranges]) -> Ranges:
    """Pages that more than one task has, where the mould can have them."""
    return repeated(carried.values()).intersect(ranges_of(mould_vmas(mapped.values())))


def vmas_with(mapped: Iterable[Sequence[MappedVma]], pages: Ranges) -> tuple[MappedVma, ...]:
    """The mould's VMAs that have any of the pages."""
    return tuple(vma for vma in mould_vmas(mapped) if pages.overlaps(vma.start, vma.end))


def ranges_of(mapped: Iterable[MappedVma]) -> Ranges:
    """What the VMAs cover."""
    return Ranges.of((vma.start, vma.end) for vma in mapped)
