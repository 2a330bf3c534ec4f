"""Which pages of a process need carrying: private ones that exist. Never touches a hole.

Owns what page categories mean; shared mappings are other code's business.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from core.errors import TraceeError
from core.kernel import pagemap_scan
from core.kernel.pagemap_scan import PageCategory, PageRegion, ScanMasks
from core.memory.ranges import EMPTY, Ranges
from core.memory.zero_frames import probe_zero_frames
from core.proc.maps import Vma

# The kernel makes these itself, at the destination too.
KERNEL_VMAS = frozenset({"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]", "[uprobes]"})

# Plain integers: an IntFlag's & takes a microsecond, and there may be a region per page.
GUARD, PFNZERO = int(PageCategory.GUARD), int(PageCategory.PFNZERO)
NOT_CARRIED = GUARD | PFNZERO | int(PageCategory.FILE)

THERE = PageCategory.PRESENT | PageCategory.SWAPPED


@dataclass(frozen=True, slots=True)
class PageSets:
    """Pages of private memory by what must be done: `carried` hold bytes of their own, `zero` are the kernel's
    zero page, `guard` are guard pages (MADV_GUARD_INSTALL)."""

    carried: Ranges = EMPTY
    zero: Ranges = EMPTY
    guard: Ranges = EMPTY

    def union(self, other: "PageSets") -> "PageSets":
        """Both together."""
        return PageSets(self.carried.union(other.carried), self.zero.union(other.zero), self.guard.union(other.guard))

    def over(self, files: Ranges) -> "PageSets":
        """With zero pages in private mappings of `files` carried: without them the file would show there. KSM
        (use_zero_pages) and UFFDIO_ZEROPAGE put such pages in its place."""
        hiding = self.zero.intersect(files)
        return PageSets(self.carried.union(hiding), self.zero.subtract(hiding), self.guard) if hiding else self


def private_vmas(vmas: Iterable[Vma]) -> list[Vma]:
    """The VMAs whose pages we carry: private ones that the kernel does not make by itself."""
    return [vma for vma in vmas if not vma.shared and vma.path not in KERNEL_VMAS]


def spans_of(vmas: Iterable[Vma], exclude: Ranges = EMPTY) -> Ranges:
    """What the VMAs cover, without `exclude`."""
    return Ranges.of((vma.start, vma.end) for vma in vmas).subtract(exclude)


def file_spans(private: Iterable[Vma]) -> Ranges:
    """Where these VMAs map files."""
    return spans_of(vma for vma in private if vma.inode)


def walks_over(spans: Ranges, held: Ranges) -> Ranges:
    """The spans with the holes between them, where nothing of `held` is: all else that is mapped. Pure."""
    walks: list[tuple[int, int]] = []
    for start, end in spans:
        if walks and not held.overlaps(walks[-1][1], start):
            walks[-1] = walks[-1][0], end
        else:
            walks.append((start, end))
    return Ranges.ordered(walks)


def sort_regions(regions: Iterable[PageRegion]) -> PageSets:
    """Regions of private VMAs (ascending) by what must be done with them.

    FILE means that a private file page was only read: the file has it. Pure.
    """
    carried: list[tuple[int, int]] = []
    zero: list[tuple[int, int]] = []
    guard: list[tuple[int, int]] = []
    for start, end, categories in regions:
        if not categories & NOT_CARRIED:
            carried.append((start, end))
        elif categories & GUARD:
            guard.append((start, end))
        elif categories & PFNZERO:
            zero.append((start, end))
    return PageSets(Ranges.ordered(carried), Ranges.ordered(zero), Ranges.ordered(guard))


@cache
def present_masks(categories: PageCategory) -> ScanMasks:
    """What a look at all that is there asks for."""
    return ScanMasks(any_of=THERE, returned=categories)


def scan_present(pagemap_fd: int, spans: Ranges, categories: PageCategory | None) -> PageSets:
    """Every page that is there. `categories`: what probe_categories said (None: read the pagemap). OSError."""
    if categories is None:
        regions = pagemap_scan.read_pages(pagemap_fd, spans.spans, probe_zero_frames())
    else:
        regions = pagemap_scan.scan_pages(pagemap_fd, spans.spans, present_masks(categories))
    return sort_regions(regions)


def read_page_sets(pid: int, vmas: Sequence[Vma], exclude: Ranges = EMPTY) -> PageSets:
    """The pages of `pid` there are now, by what must be done with them."""
    pagemap_fd = open_pagemap(pid)
    try:
        categories = pagemap_scan.known_categories()
        private = private_vmas(vmas)
        return scan_present(pagemap_fd, spans_of(private, exclude), categories).over(file_spans(private))
    except OSError as error:
        raise TraceeError(pid, f"cannot scan its pages: {error.strerror}") from error
    finally:
        os.close(pagemap_fd)


def present_ranges(pid: int, vmas: Sequence[Vma], exclude: Ranges = EMPTY) -> Ranges:
    """The pages of `pid` that need carrying now."""
    return read_page_sets(pid, vmas, exclude).carried


def open_pagemap(pid: int) -> int:
    """/proc/PID/pagemap of the mm that `pid` has now."""
    try:
        return pagemap_scan.open_pagemap(pid)
    except OSError as error:
        raise TraceeError(pid, f"cannot open its pagemap: {error.strerror}") from error
