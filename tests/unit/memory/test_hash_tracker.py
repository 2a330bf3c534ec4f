import os
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.errors import KernelLacks
from core.kernel import process_vm
from core.memory.dirty import choose
from core.memory.dirty.hashes import CHUNK_BYTES, HashTracker, PageHashes
from core.memory.pages import ReadPageReader
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from tests.unit.memory.area import Area, area


def test_a_hash_changes_with_any_bit_and_with_the_order_of_words() -> None:
    key = process_vm.make_hash_key()
    page = bytearray(os.urandom(PAGE_SIZE))
    variants = [bytes(page)]
    for offset in (0, 1, 7, 8, 2048, 4088, 4095):
        for bit in (0, 7):
            page[offset] ^= 1 << bit
            variants.append(bytes(page))
            page[offset] ^= 1 << bit
    variants += [bytes(page[8:]) + bytes(page[:8]), bytes(PAGE_SIZE), b"\1" + bytes(PAGE_SIZE - 1)]
    hashes = process_vm.hash_pages(b"".join(variants), key)
    assert len(set(hashes)) == len(variants)
    assert hashes == process_vm.hash_pages(b"".join(variants), key)
    assert set(hashes).isdisjoint(process_vm.hash_pages(b"".join(variants), process_vm.make_hash_key()))


def test_hashes_are_kept_across_chunk_borders_and_forgotten_by_page() -> None:
    known = PageHashes()
    start = 5 * CHUNK_BYTES - 2 * PAGE_SIZE
    runs = Ranges.of([(start, start + 4 * PAGE_SIZE), (9 * CHUNK_BYTES, 9 * CHUNK_BYTES + PAGE_SIZE)])
    assert Ranges.ordered(known.differing(runs, array("Q", [1, 2, 3, 4, 5]))) == runs
    known.store(runs, array("Q", [1, 2, 3, 4, 5]))
    assert list(known.differing(runs, array("Q", [1, 2, 3, 4, 5]))) == []
    assert list(known.differing(runs, array("Q", [1, 2, 7, 4, 5]))) == [(5 * CHUNK_BYTES, 5 * CHUNK_BYTES + PAGE_SIZE)]
    known.forget(Ranges.of([(start + PAGE_SIZE, start + 3 * PAGE_SIZE)]))
    lost = Ranges.of([(start + PAGE_SIZE, start + 3 * PAGE_SIZE)])
    assert Ranges.ordered(known.differing(runs, array("Q", [1, 2, 3, 4, 5]))) == lost


@contextmanager
def copied(memory: Area) -> Iterator[HashTracker]:
    """A tracker on this process after a first round that was sent."""
    memory.fill(7)
    tracker = HashTracker(os.getpid(), EMPTY)
    first = tracker.collect_and_rearm(memory.vmas)
    assert first.ranges.spans == (memory.span(0, memory.pages),)
    send(tracker, first.ranges)
    yield tracker


def send(tracker: HashTracker, ranges: Ranges) -> None:
    with ReadPageReader(os.getpid(), seen=tracker.note_read) as reader:
        for _ in reader.batches(ranges):
            pass


def test_only_what_differs_from_the_copy_is_told() -> None:
    with area(600) as memory, copied(memory) as tracker:
        assert tracker.collect_and_rearm(memory.vmas).ranges == EMPTY
        memory.store(3, 250)
        memory.store(599, 250)
        for _ in range(2):  # until it has gone to the copy
            assert tracker.collect_and_rearm(memory.vmas).ranges.spans == (memory.span(3, 4), memory.span(599, 600))
        send(tracker, Ranges.of([memory.span(3, 4)]))
        last = tracker.collect_last(memory.vmas)
        assert last.dirty.ranges.spans == (memory.span(599, 600),)
        assert last.present.carried.spans == (memory.span(0, 600),)


def test_a_page_that_changed_for_the_moment_in_which_it_was_sent_is_told() -> None:
    with area(4) as memory, copied(memory) as tracker:
        before = memory.load(1)
        memory.store(1, 250)
        send(tracker, Ranges.of([memory.span(1, 2)]))
        memory.store(1, before)
        assert tracker.collect_and_rearm(memory.vmas).ranges.spans == (memory.span(1, 2),)


def test_what_the_copy_has_lost_is_told_again() -> None:
    with area(4) as memory, copied(memory) as tracker:
        tracker.forget(Ranges.of([memory.span(2, 3)]))
        assert tracker.collect_and_rearm(memory.vmas).ranges.spans == (memory.span(2, 3),)


def test_a_kernel_without_any_help_gets_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "probe_tracker_kind", choose.probe_tracker_kind.__wrapped__)
    monkeypatch.setattr(choose, "probe_uffd_tracking", lambda: False)
    monkeypatch.setattr(choose, "probe_soft_dirty", lambda: False)
    assert isinstance(choose.choose_tracker(os.getpid(), lambda: -1), HashTracker)
    with pytest.raises(KernelLacks, match="soft-dirty"):
        choose.choose_tracker(os.getpid(), lambda: -1, kind="soft-dirty")
