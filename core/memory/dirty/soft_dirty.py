"""Dirty tracking by the soft-dirty bit (/proc/PID/clear_refs and pagemap), for kernels without userfaultfd's tracking.

Reading and clearing are two steps: the caller stops the threads around a round.

mremap sets the bit of every page that it moves, but not where it moves whole page tables: 2 MiB at a time that lie
equally in both places (move_normal_pmd). These show by the frames behind them, unless they are back at the next look.
"""

import mmap
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress

from core.errors import TraceeError
from core.kernel import pagemap_scan
from core.kernel.calls import address_of
from core.kernel.page_keys import Keys, no_keys
from core.kernel.pagemap_scan import PageCategory, PageRegion, ScanMasks, ZeroFrames
from core.memory.dirty import DirtyRound, LastRound, SharedWrites
from core.memory.pages import PageBatch
from core.memory.present import THERE, PageSets, file_spans, open_pagemap, private_vmas, sort_regions, spans_of
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.memory.sharing import read_frames, same_pages
from core.memory.zero_frames import probe_zero_frames
from core.proc.maps import Vma
from core.proc.reader import ProcReader

CLEAR_SOFT_DIRTY = b"4"
KSM = "/sys/kernel/mm/ksm"
SOFT_DIRTY = int(PageCategory.SOFT_DIRTY)
TABLE = 2 << 20  # bytes that one page table maps
SAMPLED = TABLE // 2


def sort_soft_dirty(regions: Iterable[PageRegion], pending: Ranges, *, everything: bool) -> PageSets:
    """What counts as dirty of all the regions there are. Pure.

    A page that was dropped and then only read shows the zero page without the bit: zero and guard pages are told
    every time.
    """
    found = list(regions)
    pages = sort_regions(found)
    if everything:
        return pages
    written = sort_regions(region for region in found if region[2] & SOFT_DIRTY)
    again = pending.intersect(pages.carried)
    return PageSets(written.carried.union(again), pages.zero, pages.guard)


class PageTables:
    """Of process `pid`: tells whether what is mapped was moved there with its page table since the look before."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._samples, self._frames = EMPTY, no_keys(0)  # of each table some pages, and what was there

    def moved(self, carried: Ranges, written: Ranges) -> Ranges:
        """What of these pages lies in tables of which no page is known to be where it was.

        One that was written to tells nothing: it may be new, in a frame that was just given back.
        """
        same = same_pages(self._samples, self._frames, self._read(self._samples))
        return carried.subtract(same.subtract(written).widened(TABLE))

    def note(self, carried: Ranges) -> None:
        """These are all pages there are."""
        self._samples = sample_tables(carried)
        self._frames = self._read(self._samples)

    def _read(self, pages: Ranges) -> Keys:
        return read_frames(self._pid, pages) if pages else no_keys(0)


def sample_tables(carried: Ranges) -> Ranges:
    """The first and the last page in each SAMPLED bytes of a page table. Pure."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for start, end in carried:
        for part in range(start // SAMPLED, -(-end // SAMPLED)):
            first.setdefault(part, max(start, part * SAMPLED))
            last[part] = min(end, (part + 1) * SAMPLED) - PAGE_SIZE
    return Ranges.from_pages(sorted(page // PAGE_SIZE for page in {*first.values(), *last.values()}))


class SoftDirtyTracker:
    """Tracks `pid`; `exclude` is left alone (our own area in the process)."""

    needs_stop = True
    by_content = False

    def __init__(self, pid: int, exclude: Ranges = EMPTY) -> None:
        self._pid = pid
        self._exclude = exclude
        self._pending = self._merged = EMPTY
        self._tables = PageTables(pid)
        self._first = True

    def close(self) -> None:
        """See DirtyTracker: there is nothing to give back."""

    def keep_pending(self, missing: Ranges) -> None:
        """See DirtyTracker."""
        self._pending = self._pending.union(missing)

    def note_read(self, batch: PageBatch) -> None:
        """See DirtyTracker: not needed."""

    def forget(self, lost: Ranges) -> None:
        """See DirtyTracker: not needed, a page that comes again has the bit."""

    def present(self, vmas: Sequence[Vma]) -> Ranges:
        """See DirtyTracker."""
        return sort_regions(self._read(vmas)).over(file_spans(private_vmas(vmas))).carried

    def collect_and_rearm(self, vmas: Sequence[Vma]) -> DirtyRound:
        """See DirtyTracker. All threads must be stopped."""
        look = self.collect_last(vmas)
        self._tables.note(look.present.carried)
        try:
            clear_soft_dirty(self._pid)
        except OSError as error:
            raise TraceeError(self._pid, f"cannot clear its soft-dirty bits: {error.strerror}") from error
        self._first, self._pending = False, EMPTY
        return look.dirty

    def collect_last(self, vmas: Sequence[Vma]) -> LastRound:
        """See DirtyTracker."""
        began = time.monotonic()
        regions = self._read(vmas)
        self._merged = self._merged.union(merged_spans(self._pid))
        # Huge pages (hugetlb) have no such bit, and a page that is joined with others (KSM) loses it.
        untracked = self._pending.union(self._merged, spans_of(vma for vma in vmas if vma.is_private_huge))
        files = file_spans(private_vmas(vmas))
        pages = sort_soft_dirty(regions, untracked, everything=self._first).over(files)
        present = sort_regions(regions).over(files)
        written = pages.carried.union(self._tables.moved(present.carried, pages.carried))
        return LastRound(DirtyRound(written, pages.zero, pages.guard, time.monotonic() - began), present)

    def collect_shared(self, vmas: Sequence[Vma], *, last: bool = False) -> SharedWrites:
        """See DirtyTracker. The bit goes with the mapping of a page (MADV_DONTNEED, reclaim, a huge page that is made
        or split), and a read maps it again without: what has none may have been stored to."""
        spans = spans_of(vmas)
        found = self._read_spans(spans) if spans else []
        written = Ranges.ordered((start, end) for start, end, categories in found if categories & SOFT_DIRTY)
        return SharedWrites(watched=spans, written=written, unknown=spans)

    def _read(self, vmas: Sequence[Vma]) -> list[PageRegion]:
        return self._read_spans(spans_of(private_vmas(vmas), self._exclude))

    def _read_spans(self, spans: Ranges) -> list[PageRegion]:
        pagemap_fd = open_pagemap(self._pid)
        try:
            return read_soft_dirty(pagemap_fd, spans)
        except OSError as error:
            raise TraceeError(self._pid, f"cannot read its pagemap: {error.strerror}") from error
        finally:
            os.close(pagemap_fd)


def read_soft_dirty(pagemap_fd: int, spans: Ranges) -> list[PageRegion]:
    """All pages there are, with SOFT_DIRTY where the bit is set: by PAGEMAP_SCAN where the kernel has it. OSError."""
    categories = pagemap_scan.probe_categories(pagemap_fd)
    if categories is None:
        return pagemap_scan.read_pages(pagemap_fd, spans.spans, probe_zero_frames())
    masks = ScanMasks(any_of=THERE, returned=categories | PageCategory.SOFT_DIRTY)
    return pagemap_scan.scan_pages(pagemap_fd, spans.spans, masks)


def merged_spans(pid: int) -> Ranges:
    """Where the kernel may join pages of `pid` with others of the same content (KSM), if it may have joined any."""
    reader = ProcReader()
    with suppress(ProcessLookupError):  # it has ended
        try:
            may_have = reader.text(pid, "ksm_merging_pages").strip() != "0"
        except FileNotFoundError:  # no KSM, or Linux < 5.19, which does not count them by process
            may_have = os.path.exists(KSM)
        if may_have:
            return spans_of(one.vma for one in reader.smaps(pid) if "mg" in one.flags)
    return EMPTY


def clear_soft_dirty(pid: int) -> None:
    """Clear the soft-dirty bit of every page of `pid`. OSError."""
    clear_refs = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(clear_refs, CLEAR_SOFT_DIRTY)
    finally:
        os.close(clear_refs)


def probe_soft_dirty() -> bool:
    """Whether this kernel has the bit: cleared on a page of ours, then set by a store. Asked by doing."""
    memory = mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[0] = 1
    address = address_of(memoryview(memory))
    seen = []
    for value in (2, 3):
        try:
            clear_soft_dirty(os.getpid())
        except OSError:
            return False
        if value == 3:
            memory[0] = value
        seen.append(_is_soft_dirty(address))
    return seen == [False, True]


def _is_soft_dirty(address: int) -> bool:
    pagemap_fd = pagemap_scan.open_pagemap(os.getpid())
    try:
        regions = pagemap_scan.read_pages(pagemap_fd, [(address, address + PAGE_SIZE)], ZeroFrames())
    finally:
        os.close(pagemap_fd)
    return any(categories & SOFT_DIRTY for _, _, categories in regions)
