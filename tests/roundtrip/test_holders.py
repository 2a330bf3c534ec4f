"""What holds a process stopped when nobody traces it: nothing of it runs before it is told to, by whomever."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import remove_parked, resume_parked
from core.errors import KernelLacks
from core.kernel import ptrace
from core.kernel.threads import Registers, ThreadState
from core.options import HoldChoice
from core.tracee.cgroup import LeafCgroup
from core.tracee.freezer import stop_process
from core.tracee.holder import Holder, StopHolder, choose_holder, hold_processes, holder_at
from tests.program_build import Run
from tests.requires import require_root
from tests.roundtrip.one_host import moved
from tests.roundtrip.targets import LEAF_NAME, READER, home_cgroup, is_traced, ready, tracer
from tests.waiting import wait_until

HOLDS: list[HoldChoice] = ["cgroup", "stop"]
ROUNDS = 10


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.fixture(params=HOLDS)
def hold(request: pytest.FixtureRequest) -> HoldChoice:
    choice: HoldChoice = request.param
    return choice


Position = tuple[int, Registers, bytes, int]


def position(state: ThreadState) -> Position:
    """What any instruction would change."""
    return state.tid, state.registers, state.xstate, state.sigmask


def states(pid: int) -> list[Position]:
    """Every thread of a held process, which is held again when this returns."""
    frozen = stop_process(pid, READER)
    ptrace.detach(frozen.tids)
    wait_until(lambda: not any(READER.stat(pid, tid).state in "Rt" for tid in frozen.tids), "it is held again")
    return [position(state) for state in frozen.threads]


def park(pid: int, holder: Holder) -> list[Position]:
    """Stop by ptrace, hand over to `holder`, let go: the threads as they were stopped."""
    frozen = stop_process(pid, READER)
    holder.request_freeze()
    ptrace.detach(frozen.tids)
    holder.wait_frozen()
    return [position(state) for state in frozen.threads]


@contextmanager
def held(run: Run, hold: HoldChoice) -> Iterator[Holder]:
    with home_cgroup(run.pid):
        holder = hold_processes(lambda: [run.pid], LEAF_NAME, hold)
        try:
            yield holder
        finally:
            holder.give_back()


@pytest.mark.parametrize("name", ["threads50.c", "rseq_counter.c", "blocked_condition.c", "timed_waits.c"])
def test_no_thread_runs_an_instruction_while_it_is_held(name: str, hold: HoldChoice, tmp_path: Path) -> None:
    with ready(name, tmp_path) as run, held(run, hold) as holder:
        for _ in range(ROUNDS):
            before = park(run.pid, holder)
            assert not is_traced(run.pid)
            assert states(run.pid) == before
            assert states(run.pid) == before
            holder.thaw()
        run.release()
        assert run.result() == "PASS"


def test_the_hold_outlives_the_one_who_set_it(hold: HoldChoice, tmp_path: Path) -> None:
    with ready("threads50.c", tmp_path) as run, held(run, hold) as holder:
        with tracer(lambda: (park(run.pid, holder), signal.pause())[0]) as other:  # type: ignore[func-returns-value]
            wait_until(lambda: is_held(holder), "it is held")
            other.kill()
        before = states(run.pid)
        assert states(run.pid) == before
        resume_parked(holder.path)
        run.release()
        assert run.result() == "PASS"


def is_held(holder: Holder) -> bool:
    assert isinstance(holder, LeafCgroup | StopHolder)
    return holder.is_frozen()


def test_a_held_process_can_be_ended_by_its_name_alone(hold: HoldChoice, tmp_path: Path) -> None:
    with ready("threads50.c", tmp_path) as run, held(run, hold) as holder:
        park(run.pid, holder)
        assert run.process is not None
        remove_parked(holder.path)
        assert run.process.wait(5) == -signal.SIGKILL
        remove_parked(holder.path)


def test_a_path_gives_the_same_holder(hold: HoldChoice, tmp_path: Path) -> None:
    with ready("comm.c", tmp_path) as run, held(run, hold) as holder:
        again = holder_at(holder.path)
        assert (type(again), again.path) == (type(holder), holder.path)


def test_another_process_with_that_pid_is_left_alone(tmp_path: Path) -> None:
    with ready("comm.c", tmp_path) as run:
        old = f"stop:{run.pid}:{READER.stat(run.pid).start_time - 1}"
        remove_parked(old)
        holder_at(old).request_freeze()
        os.kill(run.pid, signal.SIGSTOP)
        wait_until(lambda: READER.stat(run.pid).state == "T", "it is stopped")
        resume_parked(old)
        assert READER.stat(run.pid).state == "T"
        os.kill(run.pid, signal.SIGCONT)
        run.release()
        assert run.result() == "PASS"


def test_resuming_what_runs_sends_nothing(tmp_path: Path) -> None:
    with ready("comm.c", tmp_path) as run, held(run, "stop") as holder:
        resume_parked(holder.path)
        assert not READER.status(run.pid).shared_pending
        run.release()
        assert run.result() == "PASS"


def lacking() -> LeafCgroup:
    raise KernelLacks("cgroup v2", "is not mounted")


def test_sigstop_is_the_fallback_and_says_so() -> None:
    stop = StopHolder()
    assert choose_holder("auto", lacking, stop) is stop
    assert "SIGSTOP" in stop.notice and "is not mounted" in stop.notice


def test_who_insists_on_a_cgroup_is_refused() -> None:
    with pytest.raises(KernelLacks, match="is not mounted"):
        choose_holder("cgroup", lacking, StopHolder())


def test_before_there_is_a_copy_there_is_nothing_to_act_upon() -> None:
    assert StopHolder().path == "stop:"
    remove_parked("stop:")
    resume_parked("stop:")


@pytest.mark.parametrize("name", ["threads50.c", "blocked_nanosleep.c"])
def test_a_parked_copy_stands_still_until_it_is_resumed(name: str, hold: HoldChoice, tmp_path: Path) -> None:
    with ready(name, tmp_path) as run, home_cgroup(run.pid), moved(run.pid, hold) as move:
        copy = move.parked.pids[0]
        assert not is_traced(copy) and not is_traced(run.pid)
        before, source_before = states(copy), states(run.pid)
        assert (states(copy), states(run.pid)) == (before, source_before)
        move.commit()
        run.release()
        assert run.result() == "PASS"


def test_an_aborted_copy_is_gone_and_the_source_runs_on(hold: HoldChoice, tmp_path: Path) -> None:
    with ready("threads50.c", tmp_path) as run, home_cgroup(run.pid), moved(run.pid, hold) as move:
        copy = move.parked.pids[0]
        move.there.abort()
        assert not READER.exists(copy)
        assert move.source.holder is not None
        resume_parked(move.source.holder.path)
        run.release()
        assert run.result() == "PASS"
