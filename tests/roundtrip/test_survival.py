"""The tracer may be killed at any point: the process that it had in its hands runs on unharmed."""

import itertools
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from core import DumpOptions, LiveSource, dump
from tests.program_build import Run
from tests.requires import require_root
from tests.roundtrip.ptrace_steps import die, instead_of
from tests.roundtrip.targets import LEAF_NAME, READER, home_cgroup, is_traced, ready, tracer
from tests.seeds import random_numbers
from tests.waiting import wait_until

NAPS = {"35", "219", "230"}  # nanosleep, restart_syscall, clock_nanosleep
ROUNDS = 30
LONGEST_LIFE_S = 0.03
LEAVE_RUNNING = DumpOptions(leave_running=True)


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is killed here leaves its directory behind."""
    require_root()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def dump_once(pid: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        dump(pid, Path(directory), LEAVE_RUNNING)


def dump_all_the_time(pid: int) -> None:
    while True:
        dump_once(pid)


def live_once(pid: int) -> None:
    source = LiveSource(pid, LEAF_NAME, DumpOptions())
    try:
        source.attach()
        source.scan()
        source.freeze()
    finally:
        source.thaw()
        source.close()


def live_all_the_time(pid: int) -> None:
    while True:
        live_once(pid)


def assert_unharmed(run: Run) -> None:
    """It runs, nobody traces it, and it has not failed."""
    assert run.process is not None
    assert run.process.poll() is None, f"it ended with {run.process.poll()}: {run.early_result()}"
    wait_until(lambda: not is_traced(run.pid), "nobody traces it")
    # A second kill while it comes back from the first is another claim: the frame it comes back by is still in use.
    wait_until(lambda: READER.syscall(run.pid).partition(" ")[0] in NAPS, "its leader naps again")
    assert run.early_result() is None


@pytest.mark.parametrize("work", [dump_all_the_time, live_all_the_time])
@pytest.mark.parametrize("name", ["threads50.c", "rseq_counter.c", "signal_masks.c", "interpreter_timers.py"])
def test_killing_the_tracer_at_a_random_moment_harms_nothing(
    name: str, work: Callable[[int], None], tmp_path: Path
) -> None:
    moments = random_numbers()
    with ready(name, tmp_path) as run, home_cgroup(run.pid):
        for _ in range(ROUNDS):
            with tracer(lambda: work(run.pid)) as killed:
                killed.live(moments.uniform(0, LONGEST_LIFE_S))
                killed.kill()
            assert_unharmed(run)
        dump_once(run.pid)
        live_once(run.pid)
        run.release()
        assert run.result() == "PASS"


def survived_steps(run: Run, work: Callable[[int], None]) -> int:
    """Kill a tracer before its first, second … call until one lives to the end: how many there were."""
    for step in itertools.count():

        def body(step: int = step) -> None:
            instead_of(step, pytest.MonkeyPatch(), die)
            work(run.pid)

        with tracer(body) as killed:
            status = killed.wait()
            assert_unharmed(run)
            assert status in (0, signal.SIGKILL), f"step {step}: {killed.trouble()}"
        if status == 0:
            return step
    raise AssertionError("unreachable")


@pytest.mark.parametrize("work", [dump_once, live_once])
@pytest.mark.parametrize("name", ["comm.c", "signal_masks.c", "rseq_counter.c", "blocked_nanosleep.c"])
def test_killing_the_tracer_before_each_of_its_steps_harms_nothing(
    name: str, work: Callable[[int], None], tmp_path: Path
) -> None:
    with ready(name, tmp_path) as run, home_cgroup(run.pid):
        steps = survived_steps(run, work)
        print(f"{steps} steps")
        assert steps > 30
        run.release()
        assert run.result() == "PASS"
