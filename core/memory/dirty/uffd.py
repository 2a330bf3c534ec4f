"""Dirty tracking by userfaultfd's asynchronous write-protection and PAGEMAP_SCAN. Stops nothing."""

import errno
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from core.errors import CollectError, KernelLacks, TraceeError
from core.kernel import pagemap_scan, userfaultfd
from core.kernel.pagemap_scan import PageCategory, ScanMasks
from core.kernel.process_scans import ScanPlan, Sort, Sorted, scan_processes
from core.kernel.shmem import shmem_device
from core.kernel.userfaultfd import TrackedVma
from core.memory.dirty import DirtyRound, DirtyTracker, LastRound, SharedWrites, Untracked
from core.memory.dirty.dropped import DroppedPages
from core.memory.pages import PageBatch
from core.memory.present import (
    GUARD,
    NOT_CARRIED,
    PFNZERO,
    THERE,
    PageSets,
    file_spans,
    open_pagemap,
    private_vmas,
    read_page_sets,
    scan_present,
    sort_regions,
    spans_of,
    walks_over,
)
from core.memory.ranges import EMPTY, Ranges, Span
from core.proc.maps import Vma

NO_FD = -1
Tried = tuple[Vma, TrackedVma, int]
WPALLOWED, SWAPPED = int(PageCategory.WPALLOWED), int(PageCategory.SWAPPED)
HUGE_PAGES = ScanMasks(PageCategory.HUGE, returned=PageCategory.HUGE | PageCategory.PRESENT | PageCategory.SWAPPED)
CLEAN = WPALLOWED | int(PageCategory.WRITTEN)  # of these two bits a page not written to has WPALLOWED alone

# As sort_regions() has them: all that are carried, zero and guard, those of them that are not clean, and the swapped.
SORTS = ((NOT_CARRIED, 0), (GUARD | PFNZERO, PFNZERO), (GUARD, GUARD))
LAST_SORTS = (
    *(Sort(*rule) for rule in SORTS), *(Sort(*rule, (CLEAN, WPALLOWED)) for rule in SORTS), Sort(SWAPPED, SWAPPED),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Scanned:
    """What a last look finds in `spans`."""

    spans: Ranges
    present: PageSets
    dirty: PageSets
    swapped: Ranges


class UffdTracker:
    """Tracks `pid` through a userfaultfd of its own (`uffd_fd`: our duplicate, ours to close from here on).

    `exclude` is left alone (our own area in the process).
    """

    needs_stop = False
    by_content = False

    def __init__(self, pid: int, uffd_fd: int, exclude: Ranges = EMPTY) -> None:
        self._pid = pid
        self._uffd_fd = uffd_fd
        self._exclude = exclude
        self._pending = EMPTY
        self._ours = EMPTY  # tracked by us in the round before
        self._unclean = EMPTY  # maybe registered, but its bits were not cleared
        self._shared = EMPTY  # shared memory that was tracked at the last look
        self._dropped = DroppedPages(pid)
        self._vmas: tuple[Vma, ...] = ()  # at the last look, and what is private of them
        self._private: list[Vma] = []
        self._spans = self._files = EMPTY
        self._plan: tuple[Ranges, ScanPlan] | None = None  # of these spans
        self._scanned: _Scanned | None = None
        self._enable()

    def _enable(self) -> None:
        try:
            userfaultfd.enable_async_tracking(self._uffd_fd)
        except OSError as error:
            self.close()
            raise KernelLacks("userfaultfd", f"no asynchronous write-protection: {error.strerror}") from error

    def close(self) -> None:
        """See DirtyTracker: closing the last descriptor unregisters everything."""
        if self._uffd_fd >= 0:
            os.close(self._uffd_fd)
        self._uffd_fd = -1

    def keep_pending(self, missing: Ranges) -> None:
        """See DirtyTracker."""
        self._pending = self._pending.union(missing)

    def note_read(self, batch: PageBatch) -> None:
        """See DirtyTracker: needed for huge pages."""
        self._dropped.note_read(batch)

    def forget(self, lost: Ranges) -> None:
        """See DirtyTracker: not needed, a page that comes again is a new one."""

    def present(self, vmas: Sequence[Vma]) -> Ranges:
        """See DirtyTracker."""
        return read_page_sets(self._pid, vmas, self._exclude).carried

    def _private_of(self, vmas: Sequence[Vma]) -> tuple[list[Vma], Ranges]:
        """Which of them are private, and what those cover but for `exclude`; the same objects for equal ones."""
        if (now := tuple(vmas)) != self._vmas:
            self._vmas, self._private = now, private_vmas(now)
            self._spans, self._files = spans_of(self._private, self._exclude), file_spans(self._private)
        return self._private, self._spans

    def collect_and_rearm(self, vmas: Sequence[Vma]) -> DirtyRound:
        """See DirtyTracker. CollectError: memory that the process's own userfaultfd has."""
        began = time.monotonic()
        private, _ = self._private_of(vmas)
        self._scanned = None
        with _pagemap(self._pid) as pagemap_fd:
            tried = self._track(pagemap_fd, private)
            dropped = self._dropped.look(pagemap_fd, private, self._exclude)
            pages = self._scan(pagemap_fd, tried).over(self._files)
        refused = tuple(
            Untracked(part.start, part.end, vma.path, os.strerror(code)) for vma, part, code in tried if code
        )
        self._dropped.note_told(pages.carried)
        self.plan_last(vmas)  # when that comes there is no time
        return DirtyRound(pages.carried.union(dropped), pages.zero, pages.guard, time.monotonic() - began, refused)

    def collect_last(self, vmas: Sequence[Vma]) -> LastRound:
        """See DirtyTracker. Every page tells by itself whether it is tracked: what is not counts as written."""
        began = time.monotonic()
        private, spans = self._private_of(vmas)
        scanned, self._scanned = self._scanned, None
        if scanned is not None and scanned.spans is spans and not self._dropped.reads_pages:
            present, dirty = scanned.present, scanned.dirty
            dropped = self._dropped.look(NO_FD, private, self._exclude, scanned.swapped)
        else:
            with _pagemap(self._pid) as pagemap_fd:
                regions = pagemap_scan.scan_pages(pagemap_fd, spans.spans, last_masks(_categories()))
                swapped = Ranges.ordered([(start, end) for start, end, found in regions if found & SWAPPED])
                dropped = self._dropped.look(pagemap_fd, private, self._exclude, swapped)
            present = sort_regions(regions)
            dirty = sort_regions([one for one in regions if one[2] & CLEAN != WPALLOWED])
        present, dirty = present.over(self._files), dirty.over(self._files)
        again = present.carried.intersect(self._unclean.union(self._pending, dropped))
        seconds = time.monotonic() - began
        return LastRound(DirtyRound(dirty.carried.union(again), dirty.zero, dirty.guard, seconds), present)

    def plan_last(self, vmas: Sequence[Vma]) -> ScanPlan:
        """What collect_last scans."""
        _, spans = self._private_of(vmas)
        if self._plan is None or self._plan[0] is not spans:
            held = Ranges.of((vma.start, vma.end) for vma in vmas).subtract(spans).union(self._exclude)
            self._plan = spans, ScanPlan(self._pid, walks_over(spans, held).spans, spans.spans)
        return self._plan[1]

    def note_last(self, found: Sorted | None) -> None:
        """What LAST_SORTS say of it, if anything; for the next collect_last, if that is of the same VMAs."""
        self._scanned = None
        if found is None:
            return
        ranges = [Ranges(one) for one in found]
        self._scanned = _Scanned(self._spans, PageSets(*ranges[:3]), PageSets(*ranges[3:6]), ranges[6])

    def collect_shared(self, vmas: Sequence[Vma], *, last: bool = False) -> SharedWrites:
        """See DirtyTracker.

        Holes are write-protected too, by marks in the page tables: what was stored to and then dropped
        (MADV_DONTNEED, reclaim) has none and counts as written. But a mark outlives the page in the file.
        """
        if not vmas:
            self._shared = EMPTY
            return SharedWrites()
        with _pagemap(self._pid) as pagemap_fd:
            tried = self._track_shared(pagemap_fd, vmas)
            watched = Ranges.ordered((vma.start, vma.end) for vma, code, _ in tried if not code)
            # EPERM: a file that was opened for reading only, which cannot be stored to through this.
            unknown = Ranges.ordered(
                (vma.start, vma.end) for vma, code, is_new in tried if code != errno.EPERM and (code or is_new)
            )
            unknown = unknown.union(self._find_bare(pagemap_fd, vmas, watched, last=last))
            written = _scan_shared(pagemap_fd, watched, last=last)
        self._shared = watched
        if written is None:
            return SharedWrites(unknown=spans_of(vmas), hides_removals=True)
        return SharedWrites(watched, written.subtract(unknown), unknown, hides_removals=True)

    def _find_bare(self, pagemap_fd: int, vmas: Sequence[Vma], watched: Ranges, *, last: bool) -> Ranges:
        """Huge pages (hugetlbfs) that are not mapped and have no mark: nobody tells of what was stored to and then
        dropped there, as with others. They get a mark for the next look; a store until then is not told of either.
        """
        huge = Ranges.ordered((vma.start, vma.end) for vma in vmas if os.makedev(*vma.device) != shmem_device())
        found = pagemap_scan.scan_pages(pagemap_fd, watched.intersect(huge).spans, HUGE_PAGES)
        bare = Ranges.ordered((start, end) for start, end, categories in found if categories == PageCategory.HUGE)
        for start, end in () if last else bare:
            try:
                userfaultfd.write_protect(self._uffd_fd, start, end)
            except OSError as error:  # unmapped meanwhile
                if error.errno not in (errno.ENOENT, errno.EINVAL):
                    raise
        return bare

    def _track_shared(self, pagemap_fd: int, vmas: Sequence[Vma]) -> list[tuple[Vma, int, bool]]:
        parts = [
            TrackedVma(vma.start, vma.end, force=not self._shared.contains(vma.start, vma.end)) for vma in vmas
        ]  # fmt: skip
        told = userfaultfd.track_told(pagemap_fd, self._uffd_fd, parts)
        tried = [(vma, code, is_new) for vma, (code, is_new) in zip(vmas, told, strict=True)]
        for vma, part, (code, _) in zip(vmas, parts, told, strict=True):
            self._refuse_fatal(vma, part, code)
        return tried

    def _track(self, pagemap_fd: int, vmas: Sequence[Vma]) -> list[Tried]:
        """Every VMA tracked, as far as the kernel lets us: (vma, part, 0 or errno)."""
        parts = self._parts_of(vmas)
        codes = userfaultfd.track(pagemap_fd, self._uffd_fd, [part for _, part in parts])
        tried = [(vma, part, code) for (vma, part), code in zip(parts, codes, strict=True)]
        for vma, part, code in tried:
            self._refuse_fatal(vma, part, code)
        self._ours = _spans(part for _, part, code in tried if not code)
        self._unclean = _spans(part for _, part, code in tried if code)
        return tried

    def _parts_of(self, vmas: Sequence[Vma]) -> list[tuple[Vma, TrackedVma]]:
        """What is tracked of each VMA. The same VMAs as in the round before, all of them ours: the same parts."""
        spans = [(vma, span) for vma in vmas for span in self._without_excluded(vma)]
        if not self._unclean and _spans(TrackedVma(*span) for _, span in spans) == self._ours:
            return [(vma, TrackedVma(*span)) for vma, span in spans]
        return [(vma, self._part(*span)) for vma, span in spans]

    def _without_excluded(self, vma: Vma) -> Iterable[Span]:
        if self._exclude.overlaps(vma.start, vma.end):
            return Ranges(((vma.start, vma.end),)).subtract(self._exclude)
        return ((vma.start, vma.end),)

    def _part(self, start: int, end: int) -> TrackedVma:
        # What looks registered but never was by us may be the process's own: REGISTER tells (EBUSY).
        known = self._ours.overlaps(start, end) and not self._unclean.overlaps(start, end)
        return TrackedVma(start, end, force=not known)

    def _refuse_fatal(self, vma: Vma, part: TrackedVma, code: int) -> None:
        if code == errno.ESRCH:
            raise TraceeError(self._pid, "cannot track its memory: it has ended or runs another program now (exec)")
        if code == errno.EBUSY:
            raise CollectError(
                f"vma {part.start:x}-{part.end:x} {vma.path or 'anonymous'}",
                "cannot track writes: the process uses userfaultfd on it itself",
                hint="a process that handles its own page faults cannot be moved live",
            )

    def _scan(self, pagemap_fd: int, tried: Sequence[Tried]) -> PageSets:
        categories = _categories()
        # The pending pages are write-protected already: a plain look is enough to find those that are left.
        again = self._unclean.union(self._pending.intersect(spans_of(vma for vma, _, _ in tried)))
        dirty = sort_regions(pagemap_scan.scan_pages(pagemap_fd, self._ours.spans, _dirty_masks(categories)))
        pages = dirty.union(scan_present(pagemap_fd, again, categories))
        self._pending = EMPTY
        return pages


@contextmanager
def _pagemap(pid: int) -> Iterator[int]:
    """Opened anew each round: after an exec the old one would show an empty address space, not an error."""
    pagemap_fd = open_pagemap(pid)
    try:
        yield pagemap_fd
    except OSError as error:
        raise TraceeError(pid, f"cannot scan its pages: {error.strerror}") from error
    finally:
        os.close(pagemap_fd)


def _scan_shared(pagemap_fd: int, spans: Ranges, *, last: bool) -> Ranges | None:
    """What is not write-protected of it, which then is; None: some of it was mapped anew meanwhile."""
    # With WRITTEN alone the kernel tells of what is not there and has no mark, and makes one.
    masks = ScanMasks(
        PageCategory.WRITTEN, returned=PageCategory.WRITTEN, write_protect=not last, only_tracked=True
    )  # fmt: skip
    try:
        found = pagemap_scan.scan_pages(pagemap_fd, spans.spans, masks)
    except PermissionError:
        return None
    return Ranges.ordered((start, end) for start, end, _ in found)


def _categories() -> PageCategory:
    categories = pagemap_scan.known_categories()
    if categories is None:
        raise KernelLacks("PAGEMAP_SCAN", "needed with userfaultfd tracking")
    return categories


@cache
def _dirty_masks(categories: PageCategory) -> ScanMasks:
    return ScanMasks(PageCategory.WPALLOWED | PageCategory.WRITTEN, THERE, categories, write_protect=True)


@cache
def last_masks(categories: PageCategory) -> ScanMasks:
    """What a last look asks for."""
    return ScanMasks(any_of=THERE, returned=categories | PageCategory.WPALLOWED | PageCategory.SWAPPED)


def scan_last(trackers: Sequence[tuple[DirtyTracker, Sequence[Vma]]]) -> None:
    """All at once for those whose last look comes next, at these VMAs. Who cannot be scanned so scans itself then."""
    asked = [(one, one.plan_last(vmas)) for one, vmas in trackers if isinstance(one, UffdTracker)]
    if not asked:
        return
    found = scan_processes([plan for _, plan in asked], last_masks(_categories()), LAST_SORTS)
    for (tracker, _), one in zip(asked, found, strict=True):
        tracker.note_last(one)


def _spans(parts: Iterable[TrackedVma]) -> Ranges:
    return Ranges.ordered((part.start, part.end) for part in parts)
