"""Processes whose first thread has ended while others go on: looked at, held, refused and carried through another."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryFile

import pytest

from core import (
    DumpOptions,
    PreflightOptions,
    RestoreOptions,
    collect_facts,
    collect_host,
    dump,
    pre_dump,
    remove_parked,
    restore,
)
from core import prepare as preparing
from core.errors import ImageError, Refused, TraceeError
from core.images import kinds
from core.images.flags import TaskState
from core.images.store import read_directory, write_directory
from core.kernel.calls import pidfd_open
from core.options import HoldChoice
from core.proc.main_thread import is_dead, main_thread
from core.tracee.cgroup import cgroup2_path
from core.tracee.holder import hold_processes
from migrate.agent import read_facts
from migrate.sync_files import root_of
from tests.program_build import Run, find
from tests.requires import require_root
from tests.roundtrip.one_host import moved
from tests.roundtrip.targets import (
    LEAF_NAME,
    READER,
    attached,
    ended_afterwards,
    home_cgroup,
    is_traced,
    leaves_of,
    ready,
)
from tests.waiting import wait_until

NAME = "leader_ended.c"


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.fixture(params=["cgroup", "stop"])
def hold(request: pytest.FixtureRequest) -> HoldChoice:
    choice: HoldChoice = request.param
    return choice


def directory(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


def finish(run: Run) -> None:
    run.release()
    assert run.result() == "PASS"


def test_a_copy_is_dumped_again_at_once(tmp_path: Path) -> None:
    first, second = directory(tmp_path, "1"), directory(tmp_path, "2")
    with ready(NAME, tmp_path) as run:
        dump(run.pid, first, DumpOptions())
        run.stop()
        restore(first, RestoreOptions())
        with ended_afterwards(run.pid):
            assert READER.stat(run.pid).state == "Z"
            dump(run.pid, second, DumpOptions())
        leader, *others = (read_directory(second).one(kinds.CORE, tid) for tid in threads_in(second))
        assert leader.tc.task_state == TaskState.LEADER_ENDED
        assert len(others) == 3 and not any(core.HasField("tc") for core in others)
        restore(second, RestoreOptions())
        with ended_afterwards(run.pid):
            finish(run)


def test_a_copy_that_fails_at_the_very_last_leaves_nothing(tmp_path: Path) -> None:
    images = directory(tmp_path, "1")
    with ready(NAME, tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()

        def fail(pid: int) -> None:
            assert READER.stat(pid).state == "Z"
            raise InterruptedError

        with pytest.raises(InterruptedError):
            restore(images, RestoreOptions(), before_run=fail)
        assert not READER.exists(run.pid)


def test_an_image_in_which_no_thread_lives_is_none(tmp_path: Path) -> None:
    directory_of_images = directory(tmp_path, "1")
    with ready(NAME, tmp_path) as run:
        dump(run.pid, directory_of_images, DumpOptions(leave_running=True))
        images = read_directory(directory_of_images)
        [entry] = images.all(kinds.PSTREE)
        del entry.threads[1:]
        write_directory(images, directory_of_images)
        with pytest.raises(ImageError, match="no thread that lives"):
            restore(directory_of_images, RestoreOptions())
        finish(run)


def threads_in(images: Path) -> list[int]:
    [entry] = read_directory(images).all(kinds.PSTREE)
    return list(entry.threads)


def test_a_stopped_one_comes_back_stopped(tmp_path: Path) -> None:
    images = directory(tmp_path, "1")
    with ready(NAME, tmp_path) as run:
        os.kill(run.pid, signal.SIGSTOP)
        wait_until(lambda: states(run.pid) == set("ZT"), "it is stopped")
        dump(run.pid, images, DumpOptions())
        run.stop()
        restore(images, RestoreOptions())
        with ended_afterwards(run.pid):
            wait_until(lambda: states(run.pid) == set("ZT"), "its copy is stopped")
            os.kill(run.pid, signal.SIGCONT)
            finish(run)


def states(pid: int) -> set[str]:
    return {READER.stat(pid, tid).state for tid in READER.tids(pid)}


def test_what_changed_since_a_pre_dump_is_all_that_its_dump_writes(tmp_path: Path) -> None:
    first, second = directory(tmp_path, "1"), directory(tmp_path, "2")
    with ready(NAME, tmp_path) as run:
        pre_dump(run.pid, first, DumpOptions())
        report = dump(run.pid, second, DumpOptions(prev_images_dir="../1"))
        assert report.inherited and not report.notices
        run.stop()
        restore(second, RestoreOptions())
        with ended_afterwards(run.pid):
            finish(run)


def test_a_copy_is_parked_and_resumed(hold: HoldChoice, tmp_path: Path) -> None:
    with (
        ready(NAME, tmp_path) as run,
        home_cgroup(run.pid),
        moved(run.pid, hold, between=[lambda: None]) as move,
    ):
        copy = move.parked.pids[0]
        assert READER.stat(copy).state == "Z" and not is_traced(copy) and not is_traced(run.pid)
        move.commit()
        finish(run)


def test_the_source_runs_on_when_it_is_let_go(hold: HoldChoice, tmp_path: Path) -> None:
    with (
        ready(NAME, tmp_path) as run,
        home_cgroup(run.pid) as home,
        attached(run.pid, DumpOptions(hold=hold)) as source,
    ):
        source.scan()
        source.freeze()
        source.thaw()
        assert is_as_before(run, home)
        finish(run)


def is_as_before(run: Run, home: str) -> bool:
    thread = main_thread(run.pid, READER)
    assert not leaves_of(home) and cgroup2_path(thread) == home and not is_traced(run.pid)
    assert not any("uw" in one.flags for one in READER.smaps(thread))
    assert not any(vma.executable and not vma.path for vma in READER.maps(thread)), "our area is left"
    return all("T" not in state.upper() for state in states(run.pid))


@pytest.mark.parametrize("at_freeze", [False, True])
def test_a_first_thread_that_ends_during_a_move_ends_the_move_and_nothing_else(at_freeze: bool, tmp_path: Path) -> None:
    program = replace(find(NAME), args=("later",))
    with program.start(tmp_path / "s") as run:
        run.wait_ready()
        with home_cgroup(run.pid) as home:
            with attached(run.pid, DumpOptions(hold="cgroup")) as source:
                source.scan()
                (run.scratch_dir / "end").touch()
                wait_until(lambda: is_dead(run.pid, READER), "its first thread has ended")
                with pytest.raises(TraceeError, match="has ended"):
                    source.freeze() if at_freeze else source.scan()
            assert is_as_before(run, home)
            finish(run)


def test_a_first_thread_that_ends_after_a_pre_dump_leaves_no_tracker_behind(tmp_path: Path) -> None:
    with replace(find(NAME), args=("later",)).start(tmp_path / "s") as run:
        run.wait_ready()
        first = directory(tmp_path, "1")
        pre_dump(run.pid, first, DumpOptions())
        (run.scratch_dir / "end").touch()
        wait_until(lambda: is_dead(run.pid, READER), "its first thread has ended")
        second = directory(tmp_path, "2")
        assert dump(run.pid, second, DumpOptions(prev_images_dir="../1")).inherited
        run.stop()
        restore(second, RestoreOptions())
        with ended_afterwards(run.pid):
            finish(run)


def test_a_held_one_can_be_ended_by_its_name_alone(hold: HoldChoice, tmp_path: Path) -> None:
    with ready(NAME, tmp_path) as run, home_cgroup(run.pid):
        holder = hold_processes(lambda: [run.pid], LEAF_NAME, hold)
        holder.request_freeze()
        holder.wait_frozen()
        assert run.process is not None
        remove_parked(holder.path)
        assert run.process.wait(60) == -signal.SIGKILL


def test_its_files_are_found_through_a_thread_that_lives(tmp_path: Path) -> None:
    with ready(NAME, tmp_path) as run:
        assert not os.path.exists(f"/proc/{run.pid}/root") and os.path.samefile(root_of(run.pid), "/")
        finish(run)


def test_it_is_refused_by_name_where_no_thread_has_a_pidfd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def old_pidfd_open(pid: int) -> int:
        if READER.status(pid).tgid != pid:
            raise OSError(errno.EINVAL, "Invalid argument")
        return pidfd_open(pid)

    host = collect_host()
    with ready(NAME, tmp_path) as run:
        options = PreflightOptions()
        assert "leader-ended" not in {one.code for one in collect_facts(run.pid, options, host=host).blockers}
        old = replace(host, features=tuple(name for name in host.features if name != "pidfd_thread"))
        [blocker] = collect_facts(run.pid, options, host=old).blockers
        assert blocker.code == "leader-ended" and blocker.subject == f"pid {run.pid}" and "6.9" in (blocker.hint or "")
        monkeypatch.setattr(preparing, "pidfd_open", old_pidfd_open)
        with pytest.raises(Refused, match="has ended its first thread"):
            dump(run.pid, directory(tmp_path, "1"), DumpOptions())
        assert not is_traced(run.pid)
        finish(run)


def test_whoever_has_a_deleted_file_too_is_found(tmp_path: Path) -> None:
    with (
        TemporaryFile(dir=tmp_path) as file,
        ready(NAME, tmp_path, lambda argv: subprocess.Popen(argv, pass_fds=[file.fileno()])) as outsider,
    ):
        argv = [sys.executable, "-c", "import signal; signal.pause()"]
        null = subprocess.DEVNULL
        target = subprocess.Popen(argv, stdin=file, stdout=null, stderr=null)
        try:
            wait_until(lambda: READER.stat(target.pid).state == "S", "it waits")
            found = collect_facts(target.pid, PreflightOptions()).blockers
            holder = main_thread(outsider.pid, READER)
            assert holder != outsider.pid
            assert [one.reason for one in found if one.code == "fd-shared"] == [f"process {holder} has it open too"]
        finally:
            target.kill()
            target.wait()
        finish(outsider)


def test_it_is_among_the_processes_of_a_host(tmp_path: Path) -> None:
    with ready(NAME, tmp_path) as run:
        found = next(one for one in read_facts().processes if one.pid == run.pid)
        assert "leader_ended" in found.command and found.memory_bytes > 0
        finish(run)
