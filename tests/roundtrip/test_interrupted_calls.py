"""Calls that a stop would end with EINTR, or that the kernel restarts under another name, go on as if unstopped."""

import signal
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, restore
from core.kernel import ptrace
from core.kernel.calls import syscall
from core.tracee.freezer import freeze
from tests.program_build import discover
from tests.requires import require_root
from tests.roundtrip.targets import READER, ended_afterwards, ready
from tests.waiting import wait_until

BLOCKED = [program.name for program in discover() if program.name.startswith("blocked_")]
ROUNDS = 20


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


def stop_often(pid: int, rounds: int) -> None:
    for _ in range(rounds):
        with freeze(pid, READER):
            pass


@pytest.mark.parametrize("name", [*BLOCKED, "recvmmsg_cut_short.c", "timed_waits.c"])
def test_a_blocking_call_survives_twenty_stops(name: str, tmp_path: Path) -> None:
    with ready(name, tmp_path) as run:
        stop_often(run.pid, ROUNDS)
        run.release()
        assert run.result() == "PASS"


def test_a_signal_that_comes_during_a_stop_ends_the_call_with_eintr(tmp_path: Path) -> None:
    """Also those that the kernel does not restart: a handler runs, and the program waits for what it may never hear."""
    with ready("signalled_while_stopped.c", tmp_path) as run:
        with freeze(run.pid, READER):
            for tid in READER.tids(run.pid):
                if tid != run.pid:
                    syscall("tgkill", run.pid, tid, signal.SIGUSR1)
        run.release()
        assert run.result() == "PASS"


def test_a_stop_without_the_cure_ends_epoll_wait_with_eintr(tmp_path: Path) -> None:
    with ready("blocked_epoll.c", tmp_path) as run:
        tids = READER.tids(run.pid)
        for tid in tids:
            ptrace.seize(tid, 0)
            ptrace.interrupt(tid)
        for tid in tids:
            assert ptrace.wait_stop(tid).is_interrupt
        ptrace.detach(tids)
        assert run.result() == "FAIL: the call ended with -4 before anything woke it"


@pytest.mark.parametrize("name", BLOCKED)
def test_a_call_that_was_stopped_before_is_not_interrupted_by_a_move(name: str, tmp_path: Path) -> None:
    """The kernel has made it into restart_syscall by then, which would end with EINTR in the copy."""
    images = tmp_path / "images"
    images.mkdir()
    with ready(name, tmp_path) as run:
        pid = run.pid
        stop_often(pid, 2)
        wait_until(lambda: all("running" not in READER.syscall(pid, tid) for tid in READER.tids(pid)), "it sleeps")
        dump(pid, images, DumpOptions())
        run.stop()
        restore(images, RestoreOptions())
        with ended_afterwards(pid):
            run.release()
            assert run.result() == "PASS"


def test_a_deadly_signal_that_is_due_ends_the_process_and_its_parent_is_told(tmp_path: Path) -> None:
    """The first thread let go ends the others in their stops: in one of two runs, without a reaping detach."""
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        with ready("blocked_epoll.c", folder) as run:
            assert run.process is not None
            with freeze(run.pid, READER):
                run.process.send_signal(signal.SIGTERM)
            assert run.process.wait(timeout=10) == -signal.SIGTERM
