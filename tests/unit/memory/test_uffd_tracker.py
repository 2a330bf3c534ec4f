import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import CollectError, KernelLacks, TraceeError
from core.kernel import userfaultfd
from core.kernel.calls import pidfd_getfd, pidfd_open, syscall
from core.memory.dirty import DirtyRound, LastRound
from core.memory.dirty.choose import choose_tracker, probe_tracker_kind
from core.memory.dirty.uffd import UffdTracker, scan_last
from core.memory.pages import ReadPageReader
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges, Span
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from tests.huge_pages import has_huge_pages
from tests.requires import require
from tests.unit.memory.area import MREMAP_FIXED, MREMAP_MAYMOVE, PRIVATE, Area, area, map_at, vma_of

MADV_GUARD_INSTALL = 102
Round = Callable[..., DirtyRound]


@contextmanager
def tracking(*areas: Area, exclude: Ranges = EMPTY) -> Iterator[Round]:
    """Rounds of a tracker on this very process that looks only at the areas (or at the VMAs given)."""
    tracker = UffdTracker(os.getpid(), userfaultfd.open_own(), exclude)

    def collect(vmas: Sequence[Vma] | None = None) -> DirtyRound:
        return tracker.collect_and_rearm([vma for each in areas for vma in each.vmas] if vmas is None else vmas)

    try:
        yield collect
    finally:
        tracker.close()


@contextmanager
def tracker_of(memory: Area) -> Iterator[UffdTracker]:
    tracker = UffdTracker(os.getpid(), userfaultfd.open_own())
    try:
        yield tracker
    finally:
        tracker.close()


def test_first_round_tells_all_that_is_there_and_no_hole() -> None:
    with area(16) as memory, tracking(memory) as collect:
        memory.fill(7, 2, 5)
        assert collect().ranges.spans == (memory.span(2, 5),)


def test_only_stores_since_the_round_before_are_told() -> None:
    with area(16) as memory, tracking(memory) as collect:
        memory.fill(7)
        collect()
        assert collect().ranges == EMPTY
        memory.store(3)
        memory.store(9)
        assert collect().ranges.spans == (memory.span(3, 4), memory.span(9, 10))


def test_a_store_by_the_kernel_is_told() -> None:
    with area(4) as memory, tracking(memory) as collect:
        memory.fill(7)
        collect()
        with open("/dev/urandom", "rb") as random:
            assert syscall("read", random.fileno(), memory.page(2), 100) == 100
        assert collect().ranges.spans == (memory.span(2, 3),)


def test_a_page_dropped_and_read_again_is_told_as_zero() -> None:
    with area(4) as memory, tracking(memory) as collect:
        memory.fill(7)
        collect()
        syscall("madvise", memory.page(1), PAGE_SIZE, mmap.MADV_DONTNEED)
        assert memory.load(1) == 0
        told = collect()
        assert (told.ranges, told.zero.spans) == (EMPTY, (memory.span(1, 2),))


def test_a_page_read_only_from_its_file_is_not_told_and_a_written_one_is(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "file")
    with open(path, "w+b") as file:
        file.write(b"x" * 4 * PAGE_SIZE)
        file.flush()
        with area(4, fd=file.fileno(), flags=mmap.MAP_PRIVATE) as memory, tracking(memory) as collect:
            assert memory.load(0) == ord("x")
            memory.store(2)
            assert collect().ranges.spans == (memory.span(2, 3),)


def test_a_new_mapping_at_an_old_place_is_all_dirty() -> None:
    with area(8) as memory, tracking(memory) as collect:
        memory.fill(7)
        collect()
        map_at(memory.start, 8)
        memory.store(5)
        assert collect().ranges.spans == (memory.span(5, 6),)


def test_stores_behind_an_mremap_merge_are_not_lost() -> None:
    """The kernel drops the merged VMA's registration and keeps the neighbours' bits: they must not stay stale."""
    with area(12) as memory, area(4) as elsewhere, tracking(memory, elsewhere) as collect:
        memory.fill(7)
        collect()
        size, flags = 4 * PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED
        syscall("mremap", memory.page(4), size, size, flags, elsewhere.start)
        collect()
        syscall("mremap", elsewhere.start, size, size, flags, memory.page(4))
        assert len(memory.vmas) == 1, "the scene is a merge"
        memory.store(1)
        memory.store(10)
        told = collect().ranges
        assert told.contains(*memory.span(1, 2))
        assert told.contains(*memory.span(10, 11))
        assert told.contains(*memory.span(4, 8))
        assert collect().ranges == EMPTY


def test_moved_memory_is_dirty_at_its_new_place() -> None:
    with area(4) as memory, area(4) as elsewhere, tracking(memory, elsewhere) as collect:
        memory.fill(7)
        collect()
        size = 4 * PAGE_SIZE
        syscall("mremap", memory.start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, elsewhere.start)
        assert collect(elsewhere.vmas).ranges.spans == (elsewhere.span(0, 4),)


def test_guard_pages_are_told_as_guards_and_stay_guards() -> None:
    with area(4) as memory, tracking(memory) as collect:
        memory.fill(7)
        try:
            syscall("madvise", memory.page(1), PAGE_SIZE, MADV_GUARD_INSTALL)
        except OSError:
            pytest.skip("missing: MADV_GUARD_INSTALL (Linux 6.13)")
        told = collect()
        assert told.guard.spans == (memory.span(1, 2),)
        assert not told.ranges.overlaps(*memory.span(1, 2))
        assert told.ranges.total_pages == 3


def test_a_page_that_could_not_be_read_is_told_again() -> None:
    with area(8) as memory:
        memory.fill(7)
        tracker = UffdTracker(os.getpid(), userfaultfd.open_own())
        tracker.collect_and_rearm(memory.vmas)
        tracker.keep_pending(Ranges.of([memory.span(2, 4), memory.span(6, 7)]))
        syscall("madvise", memory.page(6), PAGE_SIZE, mmap.MADV_DONTNEED)
        assert tracker.collect_and_rearm(memory.vmas).ranges.spans == (memory.span(2, 4),)
        assert tracker.collect_and_rearm(memory.vmas).ranges == EMPTY
        tracker.close()


def test_shared_memory_kernel_vmas_and_excluded_parts_are_left_alone() -> None:
    shared_flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    with area(4, flags=shared_flags) as shared, area(8) as memory:
        excluded = Ranges.of([memory.span(2, 4)])
        with tracking(memory, exclude=excluded) as collect:
            shared.fill(7)
            memory.fill(7)
            vdso = vma_of(0x7FFF00000000, 0x7FFF00002000, path="[vdso]")
            told = collect([*memory.vmas, vma_of(shared.start, shared.end, shared=True), vdso])
            assert told.ranges.spans == (memory.span(0, 2), memory.span(4, 8))
            assert told.untracked == ()


def test_memory_of_the_process_own_userfaultfd_is_refused_by_name() -> None:
    with area(4) as memory, tracking(memory) as owner, tracking(memory) as collect:
        owner()
        with pytest.raises(CollectError, match=rf"vma {memory.start:x}-.*userfaultfd"):
            collect()


def test_what_cannot_be_tracked_is_named_and_always_dirty() -> None:
    map_droppable = 0x08 | mmap.MAP_ANONYMOUS
    try:
        with area(4, flags=map_droppable) as memory, tracking(memory) as collect:
            memory.fill(7)
            for _ in range(2):
                told = collect()
                assert told.ranges.spans == (memory.span(0, 4),)
                assert [(each.start, each.end) for each in told.untracked] == [memory.span(0, 4)]
                assert "Invalid argument" in str(told.untracked[0])
    except OSError:
        pytest.skip("missing: MAP_DROPPABLE (Linux 6.11)")


def test_huge_pages_are_told_whole_first_then_by_4k_store() -> None:
    huge = 1 << 21
    base = syscall("mmap", 0, 4 * huge, 3, PRIVATE, -1, 0)
    start = -(-base // huge) * huge
    memory = Area(start, 2 * huge // PAGE_SIZE)
    try:
        syscall("madvise", start, 2 * huge, mmap.MADV_HUGEPAGE)
        with tracking(memory) as collect:
            memory.store(0)
            memory.store(huge // PAGE_SIZE)
            assert collect().ranges.contains(start)
            memory.store(700)
            assert collect().ranges.spans == (memory.span(700, 701),)
    finally:
        syscall("munmap", base, 4 * huge)


EXECS_WHEN_TOLD = """
import os
from core.kernel import userfaultfd
print(userfaultfd.open_own(), flush=True)
input()
os.execvp("sh", ["sh", "-c", "echo there; read line"])
"""


def test_a_process_that_runs_another_program_is_an_error_not_a_clean_round() -> None:
    command = [sys.executable, "-c", EXECS_WHEN_TOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        pidfd = pidfd_open(child.pid)
        tracker = UffdTracker(child.pid, pidfd_getfd(pidfd, int(child.stdout.readline())))
        os.close(pidfd)
        assert tracker.collect_and_rearm(ProcReader().maps(child.pid)).ranges
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "there\n"
        with pytest.raises(TraceeError, match="exec"):
            tracker.collect_and_rearm(ProcReader().maps(child.pid))
        tracker.close()
        child.kill()


def test_a_process_that_is_gone_is_an_error() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    gone = UffdTracker(child.pid, userfaultfd.open_own())
    with pytest.raises(TraceeError, match=f"pid {child.pid}"):
        gone.collect_and_rearm([])
    gone.close()


def test_a_descriptor_that_is_no_userfaultfd_is_refused() -> None:
    with pytest.raises(KernelLacks):
        UffdTracker(os.getpid(), os.open("/dev/null", os.O_RDONLY))


def test_choose_takes_what_the_kernel_can_do() -> None:
    tracker = choose_tracker(os.getpid(), userfaultfd.open_own)
    assert tracker.needs_stop == (probe_tracker_kind() == "soft-dirty")
    tracker.close()


def last_look(tracker: UffdTracker, vmas: Sequence[Vma]) -> LastRound:
    """The same whether it was scanned with others before or not."""
    alone = tracker.collect_last(vmas)
    scan_last([(tracker, vmas)])
    together = tracker.collect_last(vmas)
    assert replace(together.dirty, seconds=0) == replace(alone.dirty, seconds=0)
    assert together.present == alone.present
    return together


def test_the_last_look_tells_what_is_dirty_and_what_is_there_in_one_go() -> None:
    with area(16) as memory, area(4) as new, tracker_of(memory) as tracker:
        memory.fill(7, 0, 12)
        tracker.collect_and_rearm(memory.vmas)
        tracker.keep_pending(Ranges.of([memory.span(8, 9), memory.span(11, 12)]))
        memory.store(3)
        syscall("madvise", memory.page(11), PAGE_SIZE, mmap.MADV_DONTNEED)
        new.fill(7)
        last = last_look(tracker, [*memory.vmas, *new.vmas])
        dirty = Ranges.of([memory.span(3, 4), memory.span(8, 9), new.span(0, 4)])
        assert last.dirty.ranges == dirty
        assert last.present.carried == Ranges.of([memory.span(0, 11), new.span(0, 4)])


def test_the_last_look_does_not_trust_the_bits_of_memory_that_lost_its_tracking() -> None:
    with area(12) as memory, area(4) as elsewhere, tracker_of(memory) as tracker:
        memory.fill(7)
        tracker.collect_and_rearm(memory.vmas)
        size, flags = 4 * PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED
        syscall("mremap", memory.page(4), size, size, flags, elsewhere.start)
        tracker.collect_and_rearm([*memory.vmas, *elsewhere.vmas])
        syscall("mremap", elsewhere.start, size, size, flags, memory.page(4))
        assert len(memory.vmas) == 1, "the scene is a merge"
        memory.store(1)
        assert last_look(tracker, memory.vmas).dirty.ranges.contains(*memory.span(1, 2))


def test_a_last_look_at_many_tells_each_kind_of_page_and_nothing_between() -> None:
    with area(600) as memory, area(8, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as shared, area(8) as new:
        first, second = (UffdTracker(os.getpid(), userfaultfd.open_own()) for _ in range(2))
        try:
            memory.fill(7, 0, 9)
            for page in range(10, 600, 2):  # more regions than the kernel tells at a time
                memory.store(page)
            shared.fill(7)
            new.load(2)
            first.collect_and_rearm([*memory.vmas, *new.vmas])
            memory.store(3)
            new.store(5)
            syscall("madvise", memory.page(7), PAGE_SIZE, mmap.MADV_DONTNEED)
            vmas = sorted((*memory.vmas, *shared.vmas, *new.vmas))
            alone = [tracker.collect_last(vmas) for tracker in (first, second)]
            scan_last([(first, vmas), (second, vmas)])
            together = [tracker.collect_last(vmas) for tracker in (first, second)]
            assert [one.present for one in together] == [one.present for one in alone]
            told = [[replace(one.dirty, seconds=0) for one in several] for several in (together, alone)]
            assert told[0] == told[1]
            assert told[0][0].ranges == Ranges.of([memory.span(3, 4), new.span(5, 6)])
            assert together[0].present.zero == Ranges.of([new.span(2, 3)])
            assert not together[0].present.carried.overlaps(shared.start, shared.end)
        finally:
            first.close()
            second.close()


@contextmanager
def mapped(flags: int, fd: int = -1, size: int = 1 << 22) -> Iterator[Area]:
    address = syscall("mmap", 0, size, 3, flags, fd, 0)
    try:
        yield Area(address, size // PAGE_SIZE)
    finally:
        syscall("munmap", address, size)


def sent(tracker: UffdTracker, memory: Area) -> None:
    """What is told goes over, until nothing is told."""
    for _ in range(3):
        told = tracker.collect_and_rearm(memory.vmas).ranges
        with ReadPageReader(os.getpid(), seen=tracker.note_read) as reader:
            assert sum(len(one) for _, one in reader.read(told)) == told.total
    assert told == EMPTY


def is_told(tracker: UffdTracker, memory: Area, is_last: bool) -> tuple[Span, ...]:
    told = last_look(tracker, memory.vmas) if is_last else tracker.collect_and_rearm(memory.vmas)
    return (told.dirty if isinstance(told, LastRound) else told).ranges.spans


@pytest.mark.parametrize("is_last", [False, True])
def test_a_private_page_of_a_file_that_was_stored_to_and_dropped_is_told(is_last: bool, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(1 << 22)
        with mapped(mmap.MAP_PRIVATE, file.fileno()) as memory, tracker_of(memory) as tracker:
            memory.fill(7, 2, 5)
            sent(tracker, memory)
            syscall("madvise", memory.page(3), PAGE_SIZE, mmap.MADV_DONTNEED)
            assert is_told(tracker, memory, is_last) == (memory.span(3, 4),)
            if not is_last:
                sent(tracker, memory)
                assert is_told(tracker, memory, True) == ()


@pytest.mark.parametrize("read_again", [False, True])
@pytest.mark.parametrize("is_last", [False, True])
def test_a_huge_page_that_was_dropped_is_told(read_again: bool, is_last: bool) -> None:
    require(has_huge_pages(), "nr_overcommit_hugepages")
    huge = 512  # pages
    with mapped(PRIVATE | 0x40000) as memory, tracker_of(memory) as tracker:
        memory.store(5)
        memory.store(huge + 100)
        sent(tracker, memory)
        syscall("madvise", memory.start + huge * PAGE_SIZE, huge * PAGE_SIZE, mmap.MADV_DONTNEED)
        if read_again:
            assert memory.load(huge + 100) == 0
        assert is_told(tracker, memory, is_last) == (memory.span(huge, 2 * huge),)
        if not is_last:
            sent(tracker, memory)


def test_a_huge_page_that_was_stored_to_elsewhere_since_and_then_dropped_is_told() -> None:
    require(has_huge_pages(), "nr_overcommit_hugepages")
    with mapped(PRIVATE | 0x40000, size=1 << 21) as memory, tracker_of(memory) as tracker:
        memory.store(400)
        sent(tracker, memory)
        memory.store(0)
        memory.store(400, 0)
        sent(tracker, memory)
        syscall("madvise", memory.start, 1 << 21, mmap.MADV_DONTNEED)
        assert is_told(tracker, memory, True) == (memory.span(0, 512),)


def test_a_huge_page_that_is_not_there_is_not_made_by_a_look() -> None:
    require(has_huge_pages(), "nr_overcommit_hugepages")
    with mapped(PRIVATE | 0x40000, size=1 << 21) as memory, tracker_of(memory) as tracker:
        memory.store(0)
        sent(tracker, memory)
        memory.store(1)
        syscall("madvise", memory.start, 1 << 21, mmap.MADV_DONTNEED)
        assert tracker.present(memory.vmas) == EMPTY
        assert is_told(tracker, memory, False) == is_told(tracker, memory, True) == ()
        assert tracker.present(memory.vmas) == EMPTY
