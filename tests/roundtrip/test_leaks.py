"""Whatever a dump or a live attachment leaves behind would show: in the process, in its cgroup, in ourselves."""

import itertools
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import core.collect
from core import DumpOptions, LiveSource, dump
from core.errors import TraceeError
from core.live.process import LiveProcess
from core.resources import scheduling, signals
from core.tracee.cgroup import cgroup2_path
from tests.requires import require_root
from tests.roundtrip.ptrace_steps import instead_of
from tests.roundtrip.targets import LEAF_NAME, READER, home_cgroup, is_traced, leaves_of, look_at, own_fds, ready

QUIET = ["signal_masks.c", "alt_stack.c", "fd_table.c", "blocked_epoll.c", "blocked_nanosleep.c", "stack_depth.c",
         "comm.c", "epoll.c", "pipe_content.c", "creds_nobody.c"]  # fmt: skip
LEAVE_RUNNING = DumpOptions(leave_running=True)


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@pytest.mark.parametrize("name", QUIET)
def test_leave_running_leaves_nothing_behind(name: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready(name, tmp_path) as run:
        before, ours = look_at(run.pid), own_fds()
        dump(run.pid, images, LEAVE_RUNNING)
        assert look_at(run.pid) == before
        assert own_fds() == ours
        run.release()
        assert run.result() == "PASS"


@pytest.mark.parametrize("frozen", [False, True], ids=["scanned", "frozen"])
@pytest.mark.parametrize("name", QUIET)
def test_a_live_source_that_gives_up_leaves_nothing_behind(name: str, frozen: bool, tmp_path: Path) -> None:
    with ready(name, tmp_path) as run, home_cgroup(run.pid) as home:
        before, ours = look_at(run.pid), own_fds()
        source = LiveSource(run.pid, LEAF_NAME, DumpOptions())
        source.attach()
        assert cgroup2_path(run.pid) != home
        source.scan()
        if frozen:
            source.freeze()
        source.thaw()
        source.thaw()
        source.close()
        assert look_at(run.pid) == before
        assert own_fds() == ours
        assert leaves_of(home) == []
        run.release()
        assert run.result() == "PASS"


def test_a_tree_runs_on_before_its_trackers_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    with ready("tree_deep.c", tmp_path) as run, home_cgroup(run.pid):
        source = LiveSource(run.pid, LEAF_NAME, DumpOptions())
        try:
            source.attach()
            source.freeze()
            for function in (LiveProcess.let_go, LiveProcess.close):
                noted = partial(note_call, calls, function)
                monkeypatch.setattr(LiveProcess, function.__name__, lambda process, noted=noted: noted(process))
            many, began = len(source.processes), time.monotonic()
        finally:
            since = source.thaw()
            source.close()
        assert calls == ["let_go"] * many + ["close"] * many and many > 1
        assert began < since < time.monotonic()
        run.release()
        assert run.result() == "PASS"


def note_call(calls: list[str], function: Callable[[LiveProcess], None], process: LiveProcess) -> None:
    calls.append(function.__name__)
    function(process)


class Injected(Exception):
    """Not one of ours: anything can go wrong in a collector."""


FAULTS = [
    (core.collect, "_ask"),
    (core.collect, "_collect_process"),
    (core.collect, "_collect_address_space"),
    (scheduling, "collect"),
    (signals, "collect_actions"),
]
ERRORS = [Injected("on purpose"), KeyboardInterrupt(), TraceeError(1, "on purpose")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(("module", "function"), FAULTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_dump_that_fails_in_the_middle_leaves_the_process_as_it_was(
    module: object, function: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    images = tmp_path / "images"
    images.mkdir()
    with ready("signal_masks.c", tmp_path) as run:
        before, ours = look_at(run.pid), own_fds()
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(module, function, fail)
            dump(run.pid, images, DumpOptions())
        assert not (images / "inventory.img").exists(), "a failed dump must not look like one"
        assert look_at(run.pid) == before
        assert own_fds() == ours
        run.release()
        assert run.result() == "PASS"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("function", ["attach", "_take_hold", "look", "present", "subject"])
def test_a_live_source_that_fails_in_the_middle_can_give_everything_back(
    function: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    with ready("blocked_epoll.c", tmp_path) as run, home_cgroup(run.pid) as home:
        before, ours = look_at(run.pid), own_fds()
        source = LiveSource(run.pid, LEAF_NAME, DumpOptions())
        with monkeypatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(LiveProcess, function, fail)
            source.attach()
            source.scan()
            source.freeze()
        source.thaw()
        source.close()
        assert look_at(run.pid) == before
        assert own_fds() == ours
        assert leaves_of(home) == []
        run.release()
        assert run.result() == "PASS"


def test_an_interrupt_from_the_keyboard_in_a_dump_leaves_the_process_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    real = core.collect._collect_process

    def interrupted(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        real(*args, **kwargs)  # type: ignore[arg-type]

    with ready("threads50.c", tmp_path) as run:
        ours = own_fds()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(core.collect, "_collect_process", interrupted)
            with interruptible():
                dump(run.pid, images, DumpOptions())
        assert own_fds() == ours
        run.release()
        assert run.result() == "PASS"


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where whoever started us has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def live_once(pid: int) -> None:
    source = LiveSource(pid, LEAF_NAME, DumpOptions())
    try:
        source.attach()
        source.freeze()
    finally:
        source.thaw()
        source.close()


def dump_once(pid: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        dump(pid, Path(directory), LEAVE_RUNNING)


@pytest.mark.parametrize("work", [dump_once, live_once])
@pytest.mark.parametrize("name", ["signal_masks.c", "avx.c", "blocked_nanosleep.c"])
def test_an_interrupt_at_any_step_leaves_no_tracer_and_no_descriptor(
    name: str, work: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with ready(name, tmp_path) as run, home_cgroup(run.pid) as home:
        ours, theirs = own_fds(), READER.fds(run.pid)
        for step in itertools.count():
            with monkeypatch.context() as patch:
                instead_of(step, patch, interrupt)
                try:
                    work(run.pid)
                    break
                except KeyboardInterrupt:
                    pass
            assert not is_traced(run.pid), f"step {step}"
            assert own_fds() == ours, f"step {step}"
            assert READER.fds(run.pid) == theirs, f"step {step}"
            assert cgroup2_path(run.pid) == home, f"step {step}"
        assert step > 30
        run.release()
        assert run.result() == "PASS"
