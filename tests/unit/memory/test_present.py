import mmap
import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.kernel import pagemap_scan
from core.kernel.calls import syscall
from core.kernel.page_keys import Keys
from core.kernel.pagemap_scan import PageCategory, PageRegion, ScanMasks, ZeroFrames, parse_entries
from core.memory.dirty import soft_dirty
from core.memory.dirty.soft_dirty import SoftDirtyTracker, probe_soft_dirty, sample_tables, sort_soft_dirty
from core.memory.present import present_ranges, read_page_sets, scan_present, sort_regions, spans_of
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.memory.zero_frames import probe_zero_frames
from tests.requires import require
from tests.unit.memory.area import area, vma_of

PRESENT, SWAPPED, FILE, GUARD, SOFT_DIRTY = 1 << 63, 1 << 62, 1 << 61, 1 << 58, 1 << 55
ZERO = ZeroFrames(page=7, huge=1024)


def test_pagemap_entries_become_regions_by_category() -> None:
    entries = [PRESENT | 1, PRESENT | 2, 0, PRESENT | FILE | 3, SWAPPED | 4, GUARD, PRESENT | 7, PRESENT | 1500]
    kinds = parse_entries(entries, 0x10000, ZERO)
    category = PageCategory
    assert kinds == [
        (0x10000, 0x12000, category.PRESENT),
        (0x13000, 0x14000, category.PRESENT | category.FILE),
        (0x14000, 0x15000, category.SWAPPED),
        (0x15000, 0x16000, category.GUARD),
        (0x16000, 0x18000, category.PRESENT | category.PFNZERO),
    ]


def test_a_page_of_zero_frames_unknown_is_never_taken_for_zero() -> None:
    assert parse_entries([PRESENT | 7], 0, ZeroFrames())[0][2] == PageCategory.PRESENT


def region(page: int, categories: int) -> PageRegion:
    return page * PAGE_SIZE, (page + 1) * PAGE_SIZE, int(categories)


def test_a_file_page_only_read_is_not_carried() -> None:
    pages = sort_regions([region(0, PageCategory.PRESENT), region(1, PageCategory.PRESENT | PageCategory.FILE)])
    assert list(pages.carried.pages()) == [0]


def test_soft_dirty_tells_written_pending_and_every_zero_page() -> None:
    present = PageCategory.PRESENT
    found = [
        region(0, present),
        region(1, present | PageCategory.SOFT_DIRTY),
        region(2, present),
        region(3, present | PageCategory.PFNZERO),
        region(4, PageCategory.GUARD),
    ]
    pages = sort_soft_dirty(found, Ranges.from_pages([2, 9]), everything=False)
    assert [list(each.pages()) for each in (pages.carried, pages.zero, pages.guard)] == [[1, 2], [3], [4]]
    assert list(sort_soft_dirty(found, EMPTY, everything=True).carried.pages()) == [0, 1, 2]


def test_present_tells_written_pages_and_neither_holes_nor_zero_pages() -> None:
    with area(16) as memory:
        memory.fill(3, 4, 6)
        assert memory.load(9) == 0
        assert present_ranges(os.getpid(), memory.vmas).spans == (memory.span(4, 6),)
        assert read_page_sets(os.getpid(), memory.vmas).zero.spans == (memory.span(9, 10),)
        assert memory.vmas and read_page_sets(os.getpid(), memory.vmas, spans_of(memory.vmas)).carried == EMPTY


def test_many_regions_are_told_once_each_and_in_order() -> None:
    pagemap_fd = pagemap_scan.open_pagemap(os.getpid())
    require(pagemap_scan.probe_categories(pagemap_fd) is not None, "PAGEMAP_SCAN (Linux 6.7)")
    with area(12000) as memory:
        written = range(0, memory.pages, 2)  # more than the kernel collects at a time, and than we ask for at once
        for index in written:
            memory.store(index)
        masks = ScanMasks(any_of=PageCategory.PRESENT, returned=PageCategory.PRESENT)
        regions = pagemap_scan.scan_pages(pagemap_fd, [memory.span(0, memory.pages)], masks)
        assert [start for start, _, _ in regions] == [memory.page(index) for index in written]
    os.close(pagemap_fd)


def test_reading_the_pagemap_tells_the_same_as_scanning_it() -> None:
    require(probe_zero_frames() != ZeroFrames(), "CAP_SYS_ADMIN to see frame numbers")
    pagemap_fd = pagemap_scan.open_pagemap(os.getpid())
    categories = pagemap_scan.probe_categories(pagemap_fd)
    require(categories is not None, "PAGEMAP_SCAN (Linux 6.7)")
    with area(9000) as memory:
        memory.fill(3, 0, 10)
        memory.fill(3, 4090, 4100)
        memory.fill(3, 8000, 9000)
        assert memory.load(20) == 0
        syscall("madvise", memory.page(8500), PAGE_SIZE, mmap.MADV_DONTNEED)
        spans = spans_of(memory.vmas)
        assert scan_present(pagemap_fd, spans, None) == scan_present(pagemap_fd, spans, categories)
    os.close(pagemap_fd)


@contextmanager
def pretended_soft_dirty(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, int]]:
    """Page number → categories of a process that is not there; a clear takes the bit away. What lies over bit 32 is
    added to its frame."""
    pages: dict[int, int] = {}

    def read(pagemap_fd: int, spans: Ranges) -> list[PageRegion]:
        there = [page for page in sorted(pages) if spans.contains(page * PAGE_SIZE)]
        return [region(page, pages[page] % (1 << 32)) for page in there]

    def frames(pid: int, spans: Ranges) -> Keys:
        return array("Q", [(page + (pages[page] >> 32)) if page in pages else 0 for page in spans.pages()])

    def clear(pid: int) -> None:
        pages.update({page: categories & ~int(PageCategory.SOFT_DIRTY) for page, categories in pages.items()})

    monkeypatch.setattr(soft_dirty, "read_soft_dirty", read)
    monkeypatch.setattr(soft_dirty, "read_frames", frames)
    monkeypatch.setattr(soft_dirty, "clear_soft_dirty", clear)
    yield pages


def test_soft_dirty_rounds_tell_all_first_then_what_was_written_and_what_was_pending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vmas = [vma_of(16 * PAGE_SIZE, 32 * PAGE_SIZE), vma_of(64 * PAGE_SIZE, 80 * PAGE_SIZE)]
    dirty = PageCategory.PRESENT | PageCategory.SOFT_DIRTY
    with pretended_soft_dirty(monkeypatch) as pages:
        tracker = SoftDirtyTracker(os.getpid(), Ranges.from_pages([70]))
        pages.update({16: PageCategory.PRESENT, 17: dirty, 40: dirty, 70: dirty})
        assert tracker.needs_stop
        assert list(tracker.collect_and_rearm(vmas).ranges.pages()) == [16, 17]
        tracker.keep_pending(Ranges.from_pages([16, 18]))
        pages.update({64: dirty})
        assert list(tracker.collect_and_rearm(vmas).ranges.pages()) == [16, 64]
        assert tracker.collect_and_rearm(vmas).ranges == EMPTY
        pages.update({17: dirty})
        for _ in range(2):  # the last look clears nothing
            last = tracker.collect_last(vmas)
            assert list(last.dirty.ranges.pages()) == [17]
            assert list(last.present.carried.pages()) == [16, 17, 64]


def test_pages_without_the_bit_are_told_that_were_moved_with_their_page_table(monkeypatch: pytest.MonkeyPatch) -> None:
    vmas, there = [vma_of(0, 2048 * PAGE_SIZE)], int(PageCategory.PRESENT)
    with pretended_soft_dirty(monkeypatch) as pages:
        tracker = SoftDirtyTracker(os.getpid())
        pages.update(dict.fromkeys([1, 5, 9, 600, 601], there))
        tracker.collect_and_rearm(vmas)
        assert tracker.collect_and_rearm(vmas).ranges == EMPTY
        pages.update({600: there + (1 << 32)})  # one alone is a copy of what was there, which has the bit
        assert tracker.collect_last(vmas).dirty.ranges == EMPTY
        # A page that was stored to may have the frame that was there before: it tells nothing.
        pages.update({1: there | int(PageCategory.SOFT_DIRTY), 9: there + (7 << 32), 1030: there})
        for look in (tracker.collect_last(vmas).dirty, tracker.collect_and_rearm(vmas)):
            assert list(look.ranges.pages()) == [1, 5, 9, 1030]
        assert tracker.collect_and_rearm(vmas).ranges == EMPTY


def test_the_samples_of_a_page_table_are_the_first_and_the_last_pages_of_its_halves() -> None:
    assert list(sample_tables(Ranges.from_pages([3, 7, 8, *range(500, 1537)])).pages()) == [
        3, 8, 500, 511, 512, 767, 768, 1023, 1024, 1279, 1280, 1535, 1536,
    ]  # fmt: skip


def test_of_shared_memory_soft_dirty_knows_what_was_written_and_not_what_was_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vmas = [vma_of(16 * PAGE_SIZE, 20 * PAGE_SIZE, shared=True)]
    with pretended_soft_dirty(monkeypatch) as pages:
        tracker = SoftDirtyTracker(os.getpid())
        pages.update({16: PageCategory.PRESENT, 17: PageCategory.PRESENT | PageCategory.SOFT_DIRTY})
        told = tracker.collect_shared(vmas)
        assert list(told.watched.pages()) == [16, 17, 18, 19]
        assert (list(told.written.pages()), list(told.unknown.pages())) == ([17], [16, 17, 18, 19])
        tracker.collect_and_rearm(vmas)
        assert tracker.collect_shared(vmas).written == EMPTY


def test_soft_dirty_tracker_tells_only_stores_since_the_round_before() -> None:
    if not probe_soft_dirty():
        pytest.xfail("this kernel has no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY): nothing to run it on")
    with area(8) as memory:
        memory.fill(3)
        tracker = SoftDirtyTracker(os.getpid())
        assert tracker.collect_and_rearm(memory.vmas).ranges.spans == (memory.span(0, 8),)
        memory.store(5)
        assert tracker.collect_and_rearm(memory.vmas).ranges.spans == (memory.span(5, 6),)
