"""`--pid namespace`: a copy lives while its PID is taken here, under an init that reaps and ends with it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, RestoreReport, dump, restore
from core.errors import RestoreError
from core.preflight.process import refuse_namespaces
from core.proc.reader import ProcReader
from core.tracee.stem import make_stem
from core.tracee.stem_fork import fork_stem
from tests.program_build import Run
from tests.requires import require_root
from tests.roundtrip.one_host import moved
from tests.roundtrip.targets import READER, home_cgroup, own_fds, ready
from tests.waiting import wait_until

NAMESPACE = RestoreOptions(pid_mode="namespace")
PROGRAMS = [
    "thread_ids.c", "threads50.c", "creds_nobody.c", "pipe_content.c", "epoll.c", "signal_masks.c", "timed_waits.c",
    "blocked_condition.c", "cwd.c", "device_fds.c", "file_deleted.c", "interpreter_files.py", "interpreter_timers.py",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@contextmanager
def twin(run: Run, images: Path) -> Iterator[RestoreReport]:
    """A copy of the running program, which has the PID still. The copy is ended and reaped."""
    images.mkdir()
    dump(run.pid, images, DumpOptions(leave_running=True))
    report = restore(images, NAMESPACE)
    try:
        yield report
    finally:
        end(report.child)


def end(init: int) -> None:
    try:
        os.kill(init, signal.SIGKILL)
        os.waitpid(init, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def inside(report: RestoreReport, *argv: str) -> str:
    """Output of a command in the copy's namespaces."""
    command = ["nsenter", "-t", str(report.child), "-p", "-m", "--", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_process_is_restored_while_its_pid_is_taken(name: str, tmp_path: Path) -> None:
    with ready(name, tmp_path) as run, twin(run, tmp_path / "images") as report:
        assert READER.status(report.pid).ns_pid[-2:] == (report.pid, run.pid)
        run.stop()
        run.release()
        assert run.result() == "PASS"
        assert os.waitpid(report.child, 0) == (report.child, 0)


def test_the_report_tells_both_pids(tmp_path: Path) -> None:
    with ready("comm.c", tmp_path) as run, twin(run, tmp_path / "images") as report:
        text = f"pid {run.pid} is {report.pid} on {os.uname().nodename}, inside a PID namespace of its own"
        assert text in report.notices


def test_keep_says_that_the_pid_is_taken_and_leaves_nothing(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("comm.c", tmp_path) as run:
        dump(run.pid, images, DumpOptions(leave_running=True))
        before, children = own_fds(), READER.children(os.getpid())
        with pytest.raises(RestoreError, match=f"pid {run.pid}") as caught:
            restore(images, RestoreOptions())
        assert "--pid namespace" in str(caught.value.hint)
        assert (own_fds(), READER.children(os.getpid())) == (before, children)


def test_proc_shows_the_namespace_and_the_host_keeps_its_own(tmp_path: Path) -> None:
    before = READER.text("self", "mountinfo")
    with ready("comm.c", tmp_path) as run, twin(run, tmp_path / "images") as report:
        numbers = {word for word in inside(report, "ls", "/proc").split() if word.isdigit()}
        assert {"1", str(run.pid)} <= numbers and len(numbers) == 3  # and ls itself
        assert READER.text("self", "mountinfo") == before


def test_init_reaps_an_orphan(tmp_path: Path) -> None:
    with ready("comm.c", tmp_path) as run, twin(run, tmp_path / "images") as report:
        orphan = inside(report, "sh", "-c", "sleep 0.01 >/dev/null 2>&1 & echo $!").strip()
        wait_until(lambda: orphan not in inside(report, "ls", "/proc").split(), "the orphan is reaped")
        assert READER.stat(report.pid).ppid == report.child


def test_init_outlives_its_first_child_while_there_is_another(tmp_path: Path) -> None:
    with ready("comm.c", tmp_path) as run, twin(run, tmp_path / "images") as report:
        inside(report, "sh", "-c", "sleep 100 >/dev/null 2>&1 &")
        os.kill(report.pid, signal.SIGKILL)
        wait_until(lambda: not READER.exists(report.pid), "the process is reaped")
        [sleeper] = READER.children(report.child)
        os.kill(sleeper, signal.SIGKILL)
        assert os.waitpid(report.child, 0) == (report.child, 0)


def test_sigterm_to_init_ends_everything(tmp_path: Path) -> None:
    with ready("comm.c", tmp_path) as run, twin(run, tmp_path / "images") as report:
        os.kill(report.child, signal.SIGTERM)
        assert os.waitpid(report.child, 0) == (report.child, 0)
        assert not READER.exists(report.pid)


def test_the_death_of_init_ends_everything(tmp_path: Path) -> None:
    with ready("threads50.c", tmp_path) as run, twin(run, tmp_path / "images") as report:
        end(report.child)
        assert not READER.exists(report.pid)


@pytest.mark.parametrize("name", ["comm.c", "threads50.c"])
def test_a_failed_restore_leaves_no_namespace(name: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()

    def fail(pid: int) -> None:
        raise RestoreError("as told")

    with ready(name, tmp_path) as run:
        dump(run.pid, images, DumpOptions(leave_running=True))
        before, children = own_fds(), READER.children(os.getpid())
        with pytest.raises(RestoreError, match="as told"):
            restore(images, NAMESPACE, fail)
        assert (own_fds(), READER.children(os.getpid())) == (before, children)


def test_a_dump_of_the_copy_has_the_pid_it_knows_and_comes_back_with_it(tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    with ready("thread_ids.c", tmp_path) as run:
        with twin(run, tmp_path / "images") as report:
            run.stop()
            dump(report.pid, again, DumpOptions())
        back = restore(again, RestoreOptions())
        try:
            assert back.pid == run.pid
            run.release()
            assert run.result() == "PASS"
        finally:
            end(back.child)


def test_preflight_names_the_namespaces_of_the_copy(tmp_path: Path) -> None:
    with ready("comm.c", tmp_path) as run, twin(run, tmp_path / "images") as report:
        found = refuse_namespaces(report.pid, READER.namespaces(report.pid), READER.namespaces(os.getpid()))
        assert {f"is in another {name} namespace" for name in ("pid", "mnt")} <= {one.reason for one in found}
        assert all("coming" in str(one.hint) for one in found)


@pytest.mark.parametrize("name", ["threads50.c", "memory_churn.c", "interpreter_objects.py"])
def test_a_live_copy_takes_over_here(name: str, tmp_path: Path) -> None:
    with ready(name, tmp_path) as run, home_cgroup(run.pid), moved(run.pid, "cgroup") as move:
        own = run.pid
        host = os.uname().nodename
        assert f"pid {own} is {move.parked.pids[0]} on {host}, inside a PID namespace of its own" in move.parked.notices
        assert READER.status(move.commit()).ns_pid[-1] == own
        run.release()
        assert run.result() == "PASS"


class Killing(ProcReader):
    """A look at the children of one process ends another."""

    def __init__(self, of: int, victim: int) -> None:
        super().__init__()
        self._of, self._victim = of, victim

    def children(self, pid: int) -> list[int]:
        found = super().children(pid)
        if pid == self._of and self.exists(self._victim):
            os.kill(self._victim, signal.SIGKILL)
            wait_until(lambda: self.stat(self._victim).state == "Z", "it ends")
        return found


@pytest.mark.timeout(60)
def test_a_namespace_ends_whoever_is_orphaned_meanwhile() -> None:
    """As when a tree's cgroup is killed first: init has children then that it had not a moment ago."""
    stem = make_stem(5, (), READER, pid_mode="namespace")
    child = fork_stem(stem, 6, READER)
    assert stem.init is not None
    stem.init.kill(Killing(stem.init_pid, stem.pid))
    assert not any(READER.exists(pid) for pid in (stem.init_pid, stem.pid, child.pid))
    stem.kill()
    child.kill()
