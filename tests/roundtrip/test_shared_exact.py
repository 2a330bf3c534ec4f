"""Shared memory in a move: no store is lost, whoever made it and however, and only what changed goes over again.

MIGRATE_EXACT_RUNS: how often the tasks that store at random are copied.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from core import DumpOptions, LiveSource
from core.live.shared import SharedSegment
from core.live.shared_file import SharedFile
from core.memory.dirty.choose import probe_uffd_tracking
from core.memory.ranges import PAGE_SIZE, Ranges
from core.options import TrackChoice
from tests.huge_pages import has_huge_pages
from tests.requires import require, require_root
from tests.roundtrip import shared_exact, shared_target
from tests.roundtrip.dirty_exact import build
from tests.roundtrip.shared_exact import Copy, copy_while_it_runs
from tests.roundtrip.targets import home_cgroup
from tests.waiting import wait_until

RUNS = int(os.environ.get("MIGRATE_EXACT_RUNS", "1"))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_root()
    return build(tmp_path_factory.mktemp("shared"), shared_exact.SOURCE)


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize(
    ("tracker", "how"), [("uffd-wp", "calm"), ("uffd-wp", "wild"), ("uffd-wp", "drops"), ("hash", "wild")]
)
def test_shared_memory_that_is_copied_while_tasks_store_to_it_is_the_same_to_the_byte(
    program: Path, tracker: TrackChoice, how: str, run: int
) -> None:
    if tracker == "uffd-wp":
        require(probe_uffd_tracking(), "userfaultfd WP_ASYNC and PAGEMAP_SCAN (Linux 6.7)")
    outcome = copy_while_it_runs(program, tracker, how, seconds=2.0)
    assert outcome.wrong == []
    assert outcome.rounds >= 4


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("tracker", ["uffd-wp", "hash"])
def test_huge_pages_that_are_copied_while_tasks_store_to_them_are_the_same_to_the_byte(
    tmp_path: Path, tracker: TrackChoice, run: int
) -> None:
    require_root()
    require(tracker != "uffd-wp" or probe_uffd_tracking(), "userfaultfd WP_ASYNC and PAGEMAP_SCAN (Linux 6.7)")
    require(has_huge_pages(), "nr_overcommit_hugepages")
    outcome = copy_while_it_runs(build(tmp_path, shared_exact.HUGE_SOURCE), tracker, "", seconds=2.0)
    assert outcome.wrong == []
    assert outcome.rounds >= 4


@dataclass(slots=True)
class Tracked:
    """shared_target.py at work, and a copy of what it shares."""

    process: "subprocess.Popen[str]"
    source: LiveSource
    copy: Copy

    def do(self, *acts: str) -> dict[str, Ranges]:
        """Each, with a look after it; what the last one told, by the kind of memory."""
        told: dict[str, Ranges] = {}
        for act in acts:
            assert self.process.stdin and self.process.stdout
            self.process.stdin.write(f"{act}\n")
            self.process.stdin.flush()
            assert self.process.stdout.readline() == "done\n"
            self.source.scan()
            told = {kind_of(file): file.pending for file in self.source.files if file.pending}
            self.copy.take(self.source)
        return told

    def wrong(self) -> list[str]:
        """Pages of which the copy has other bytes."""
        return [page for shared in self.source.files for page in self.copy.wrong(shared)]

    def doubts(self) -> set[str]:
        """Of the last look."""
        return {file.doubt for file in self.source.files}


def kind_of(file: SharedFile) -> str:
    """A word for the test."""
    if not isinstance(file, SharedSegment):
        return "FILE"
    return "HUGE" if file.segment.page_size != PAGE_SIZE else file.segment.kind.name


@pytest.fixture(scope="module")
def tracked() -> Iterator[Tracked]:
    require_root()
    require(probe_uffd_tracking(), "userfaultfd WP_ASYNC and PAGEMAP_SCAN (Linux 6.7)")
    require(has_huge_pages(), "nr_overcommit_hugepages")
    command = [sys.executable, shared_target.__file__]
    with (
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process,
        home_cgroup(process.pid),
    ):
        assert process.stdout and process.stdout.readline() == "done\n"
        source = LiveSource(process.pid, f"migrate-survival-{os.getpid()}", DumpOptions(track="uffd-wp"))
        try:
            source.attach()
            one = Tracked(process, source, Copy())
            one.do("rest", "rest", "rest")
            yield one
        finally:
            source.thaw()
            source.close()
            process.kill()
            shared_target.name_of(process.pid).unlink()


def pages(*numbers: int) -> Ranges:
    return Ranges.from_pages(numbers)


def test_nothing_goes_over_again_while_nothing_is_stored(tracked: Tracked) -> None:
    def told_without_comparing() -> bool:
        assert tracked.do("rest") == {}
        return tracked.doubts() == {""}

    wait_until(told_without_comparing, "times of files have settled, and the host is quiet enough to be watched")


def test_the_pages_that_were_stored_to_go_over_again_and_no_others(tracked: Tracked) -> None:
    assert tracked.do("store") == {"ANONYMOUS": pages(3), "MEMFD": pages(4)}
    assert tracked.do("store_by_kernel") == {"ANONYMOUS": pages(6)}
    assert tracked.do("store_in_file") == {"FILE": pages(16)}
    assert tracked.wrong() == []


def test_a_store_to_a_page_that_was_then_unmapped_goes_over(tracked: Tracked) -> None:
    assert tracked.do("store_and_drop") == {"ANONYMOUS": pages(5)}
    assert tracked.wrong() == []


def test_a_page_that_was_removed_and_read_again_is_zero_over_there(tracked: Tracked) -> None:
    assert tracked.do("remove_and_read") == {"ANONYMOUS": pages(8)}
    assert tracked.wrong() == []
    assert tracked.do("remove") == {}
    assert tracked.wrong() == []
    assert tracked.do("store_again") == {"ANONYMOUS": pages(9)}
    assert tracked.wrong() == []


def test_huge_pages_go_over_again_when_they_were_stored_to_and_dropped_or_removed(tracked: Tracked) -> None:
    for act, number in (("store_to_huge", 0), ("store_to_huge_and_drop", 1), ("remove_huge_and_read", 2)):
        told = tracked.do(act)
        assert tracked.wrong() == []
        assert [kind for kind, changed in told.items()] == ["HUGE"]
        assert told["HUGE"].subtract(page_of_huge(number)).spans == ()
    tracked.do("remove_huge")
    assert tracked.wrong() == []


def page_of_huge(number: int) -> Ranges:
    return Ranges(((number * shared_target.HUGE, (number + 1) * shared_target.HUGE),))


@pytest.mark.parametrize(
    ("acts", "kind", "page"),
    [
        (["fork_and_store"], "MEMFD", 10),
        (["map_store_and_go"], "SYSV", 11),
        (["map_and_stay", "rest", "store_and_go"], "SYSV", 12),
        (["move_and_store"], "SYSV", 13),
        (["write_as_file"], "MEMFD", 14),
        (["write_and_close"], "MEMFD", 15),
        (["write_by_name"], "FILE", 17),
    ],
)
def test_a_store_that_left_no_trace_is_found_by_comparing(
    tracked: Tracked, acts: list[str], kind: str, page: int
) -> None:
    assert tracked.do(*acts) == {kind: pages(page)}
    assert tracked.wrong() == []
