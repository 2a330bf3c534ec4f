"""Live moves of several rounds on one machine: by every tracker, and of a process that becomes another one between."""

import os
from pathlib import Path

import pytest

from core.memory.dirty.soft_dirty import probe_soft_dirty
from core.options import DumpOptions, TrackChoice
from core.proc.reader import ProcReader
from tests.requires import require_root
from tests.roundtrip.one_host import moved
from tests.roundtrip.targets import attached, home_cgroup, ready
from tests.waiting import wait_until

TRACKERS: tuple[TrackChoice, ...] = ("uffd-wp", "hash", *(("soft-dirty",) if probe_soft_dirty() else ()))
READER = ProcReader()
PROGRAMS = [
    "memory_writer.c", "memory_churn.c", "memory_holes.c", "memory_marks.c", "memory_sealed.c",
    "memory_lockall_onfault.c", "file_mapping_private.c", "heap_growth.c", "memory_huge.c", "memory_huge_churn.c",
    "memory_sysv_index.c", "heap_beside_data.c",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.mark.parametrize("tracker", TRACKERS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_copy_made_in_rounds_is_right(name: str, tracker: TrackChoice, tmp_path: Path) -> None:
    with (
        ready(name, tmp_path) as run,
        home_cgroup(run.pid),
        moved(run.pid, "cgroup", track=tracker, between=[lambda: None] * 3) as move,
    ):
        move.commit()
        run.release()
        assert run.result() == "PASS"


def test_ten_thousand_mappings_move(tmp_path: Path) -> None:
    with (
        ready("memory_vmas_10000.c", tmp_path) as run,
        home_cgroup(run.pid),
        moved(run.pid, "cgroup", between=[lambda: None]) as move,
    ):
        move.commit()
        run.release()
        assert run.result() == "PASS"


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_process_that_runs_another_program_between_two_rounds_goes_on_as_that(
    tracker: TrackChoice, tmp_path: Path
) -> None:
    with ready("exec_again.c", tmp_path) as run, home_cgroup(run.pid):

        def again() -> None:
            (run.scratch_dir / "again").touch()
            wait_until((run.scratch_dir / "anew").exists, "it is another program")

        with moved(run.pid, "cgroup", track=tracker, between=[again]) as move:
            move.commit()
            run.release()
            assert run.result() == "PASS"


def test_a_process_that_runs_another_program_is_let_go_unharmed(tmp_path: Path) -> None:
    with ready("exec_again.c", tmp_path) as run, home_cgroup(run.pid):

        def again() -> None:
            (run.scratch_dir / "again").touch()
            wait_until((run.scratch_dir / "anew").exists, "it is another program")
            raise InterruptedError

        with pytest.raises(InterruptedError), moved(run.pid, "cgroup", between=[again], give_up=True):
            pass
        run.release()
        assert run.result() == "PASS"


def test_an_address_space_is_described_anew_when_a_memfd_it_maps_has_grown(tmp_path: Path) -> None:
    with ready("tree_shared_memfd.c", tmp_path) as run, attached(run.pid, DumpOptions()) as source:
        source.scan()
        one = source.processes[run.pid]
        first = one.memory
        source.scan()
        assert one.memory is first
        memfd = next(fd for fd in READER.fds(run.pid) if "memfd:" in READER.fd_link(run.pid, fd))
        path = READER.path(run.pid, f"fd/{memfd}")
        size = os.stat(path).st_size
        os.truncate(path, size + 4096)
        source.scan()
        assert one.memory is not first
        os.truncate(path, size)
        source.thaw()
        run.release()
        assert run.result() == "PASS"
