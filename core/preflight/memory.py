"""Refusals and notices about the target's memory, and how much of it there is to carry."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from core.errors import Blocker
from core.kernel.features import LOW_END
from core.kernel.hugetlb import page_size_of_device
from core.memory.present import KERNEL_VMAS
from core.options import TrackChoice
from core.preflight.records import HostRecord
from core.proc.maps import SmapsVma, Vma
from core.proc.reader import ProcReader
from core.proc.status import Status
from core.resources import aio, vmas

MAX_MAP_COUNT: Final = "/proc/sys/vm/max_map_count"
MAP_COUNT_DEFAULT: Final = 65530
MANY_SHARE: Final = 0.1  # of vm.max_map_count: a program that lives by its mappings
NEAR_SHARE: Final = 0.8
ALIKE_NAMED: Final = 3
TRACKER_NEEDS: Final[dict[TrackChoice, frozenset[str]]] = {
    "uffd-wp": frozenset({"pagemap_scan", "uffd_wp_async"}),
    "soft-dirty": frozenset({"soft_dirty"}),
    "hash": frozenset(),
}
TRACKER_COSTS: Final = {
    "soft-dirty": "each round stops the process for a look at its page tables",
    "hash": "each round, and the freeze, reads all of its memory, so expect seconds of downtime per 10 GiB",
}


def needs_of_memory(smaps: Sequence[SmapsVma]) -> tuple[str, ...]:
    """Features that the destination's kernel must have for it. Pure."""
    high = any(one.vma.end > LOW_END and one.vma.name != "[vsyscall]" for one in smaps)
    sealed = any("sl" in one.flags and one.vma.name not in KERNEL_VMAS for one in smaps)
    rings = any(one.vma.is_aio_ring for one in smaps)
    found = {"la57": high, "aio": rings, "mseal": sealed}
    return tuple(name for name, needed in found.items() if needed)


def refuse_rings(pid: int, smaps: Sequence[SmapsVma]) -> list[Blocker]:
    """Contexts of asynchronous I/O that will not be idle, or of which that cannot be told."""
    found = aio.rings([one.vma for one in smaps])
    if not found:
        return []
    mapped = partial(ProcReader().maps, pid)
    return aio.refuse_unknown(found) or [*aio.refuse_inherited(pid, mapped), *aio.refuse_waiting(pid)]


def private_huge_pages(vmas: Iterable[Vma]) -> tuple[tuple[int, int], ...]:
    """Of an address space: (bytes of one, how many) by size."""
    huge = (vma for vma in vmas if vma.is_private_huge)
    return huge_pages_of((page_size_of_device(os.makedev(*vma.device)), vma.size) for vma in huge)


def huge_pages_of(areas: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """(bytes of one, how many) by size, for areas of (bytes of a page, bytes): all is reserved over there, holes too.
    Pure."""
    return add_huge_pages(((page_size, -(-size // page_size)),) for page_size, size in areas)


def add_huge_pages(several: Iterable[tuple[tuple[int, int], ...]]) -> tuple[tuple[int, int], ...]:
    """Together, by size. Pure."""
    found: Counter[int] = Counter()
    for pages in several:
        for size, count in pages:
            found[size] += count
    return tuple(found.items())


def refuse_memory(smaps: Sequence[SmapsVma]) -> list[Blocker]:
    """Every mapping that cannot be carried; of many alike the first few. Pure."""
    found = [blocker for one in smaps if (blocker := vmas.refuse(one.vma, one.flags)) is not None]
    shown: list[Blocker] = []
    for blocker in found:
        alike = [other for other in shown if (other.code, other.reason) == (blocker.code, blocker.reason)]
        if len(alike) < ALIKE_NAMED:
            shown.append(blocker)
    return shown


def decide_tracker(host: HostRecord) -> TrackChoice:
    """The tracker that a kernel with these features will use. Pure; the same order as core.memory.dirty.choose."""
    return next(kind for kind, needed in TRACKER_NEEDS.items() if needed <= set(host.features))


def refuse_tracker(track: TrackChoice | None, host: HostRecord) -> list[Blocker]:
    """A tracker that was asked for and that this kernel has not. Pure."""
    missing = sorted(TRACKER_NEEDS[track] - set(host.features)) if track else []
    hint = f"leave --track out: {decide_tracker(host)} is used then"
    return [Blocker("kernel-lacks", f"--track {track}", f"the kernel here lacks {name}", hint) for name in missing]


def notice_tracker(track: TrackChoice | None, host: HostRecord) -> list[str]:
    """What the tracker costs the target, where it costs much. Pure."""
    kind = track or decide_tracker(host)
    return [f"written pages are found by {kind}: {TRACKER_COSTS[kind]}"] if kind in TRACKER_COSTS else []


def notice_tracking(smaps: Sequence[SmapsVma], max_map_count: int) -> list[str]:
    """What write-protect tracking may change for the target while it runs. Pure."""
    count = len(smaps)
    if count >= NEAR_SHARE * max_map_count:
        return [
            f"it has {count} of {max_map_count} mappings (vm.max_map_count); tracked ones merge no more with new ones, "
            "so it may run out during the migration: raise the limit"
        ]
    if count >= MANY_SHARE * max_map_count:
        return [
            f"it has {count} mappings: while pages are tracked, mremap over a tracked and an adjacent new mapping "
            "ends with EFAULT, and new mappings do not merge with old ones"
        ]
    return []


def read_max_map_count() -> int:
    """vm.max_map_count, or its default where it cannot be read."""
    try:
        with open(MAX_MAP_COUNT, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return MAP_COUNT_DEFAULT


def memory_bytes(status: Status, smaps: Sequence[SmapsVma], shared_out_bytes: int | None = None) -> int:
    """What the target will take over there: its own pages, swapped ones too. Pure.

    A page that it shares with others since a fork counts for its part alone (`shared_out_bytes`): it stays shared.
    """
    resident = shared_out_bytes if shared_out_bytes is not None else status.rss_anon
    if resident is None:
        resident = sum(one.rss_bytes for one in smaps if not one.vma.shared)
    return resident + (status.vm_swap or 0)
