"""Children that end at any moment of a live attachment: everybody else is attached to, and nothing is left of it."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from core import DumpOptions, LiveSource
from core.errors import TraceeError
from core.proc.reader import ProcReader
from core.tracee.family import has_ended
from migrate.keeper.live import LiveSourceEngine
from migrate.pb import control_pb2 as pb
from tests.hosts.host import REPOSITORY
from tests.requires import require_root
from tests.roundtrip.targets import LEAF_NAME, home_cgroup, is_traced
from tests.seeds import random_numbers
from tests.waiting import wait_until

PLACES = 40
OURS = tuple(f"{REPOSITORY}/{name}/" for name in ("core", "migrate"))
READER = ProcReader()
LEAF_ID = LEAF_NAME.removeprefix("migrate-")
Place = tuple[str, int, str]  # file, line, native function that is called there

PARENT = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
pids = []
for _ in range(2):
    pids.append(os.fork())
    while not pids[-1]:
        signal.pause()
with open(sys.argv[1], "w") as file:
    print(*pids, file=file)
while True:
    signal.pause()
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@contextmanager
def family(folder: Path) -> Iterator[tuple[int, list[int]]]:
    """A process that waits for nobody, and its two children."""
    told = folder / "children"
    told.unlink(missing_ok=True)
    null = subprocess.DEVNULL
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, told], stdin=null, stdout=null, stderr=null, start_new_session=True
    ) as process:
        try:
            wait_until(lambda: told.exists() and told.read_text().endswith("\n"), "both children run")
            with home_cgroup(process.pid):
                yield process.pid, [int(word) for word in told.read_text().split()]
        finally:
            os.killpg(process.pid, signal.SIGKILL)


class Steps:
    """Counts native calls of ours by the place that makes them; kills `victim` before call `number` of `place`."""

    def __init__(self, victim: int, place: Place | None, number: int) -> None:
        self.seen: Counter[Place] = Counter()
        self.struck = False
        self._victim, self._place, self._number = victim, place, number

    @contextmanager
    def watched(self) -> Iterator[None]:
        """For the time of a with block."""
        sys.setprofile(self._step)
        try:
            yield
        finally:
            sys.setprofile(None)

    def _step(self, frame: FrameType, event: str, function: object) -> None:
        if event != "c_call" or not frame.f_code.co_filename.startswith(OURS):
            return
        place = (frame.f_code.co_filename, frame.f_lineno, getattr(function, "__name__", ""))
        self.seen[place] += 1
        if not self.struck and place == self._place and self.seen[place] == self._number:
            self.struck = True
            sys.setprofile(None)
            os.kill(self._victim, signal.SIGKILL)
            wait_until(lambda: has_ended(self._victim, READER), "the victim has ended")


@contextmanager
def engine() -> Iterator[LiveSourceEngine]:
    """A keeper's engine; whatever pages it sends are read and forgotten."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reading = threading.Thread(target=lambda: [None for _ in iter(lambda: theirs.recv(1 << 20), b"")])
        reading.start()
        made = LiveSourceEngine(LEAF_ID, [ours.fileno()])
        try:
            yield made
        finally:
            made.thaw()
            made.close()
            ours.shutdown(socket.SHUT_RDWR)
            reading.join()


def pre_copy(source: LiveSourceEngine, pid: int) -> LiveSource:
    """Up to what the freeze would find."""
    source.attach(pb.Attach(pid=pid))
    for number in (1, 2):
        source.scan(number)
        source.send_pages(number, [], lambda _: None)
    source.scan(3)
    return source._attached()


def places(folder: Path) -> Counter[Place]:
    """Where an undisturbed pre-copy calls native functions, and how often."""
    with family(folder) as (pid, children), engine() as source:
        steps = Steps(children[0], None, 0)
        with steps.watched():
            pre_copy(source, pid)
    return steps.seen


def test_a_child_that_ends_at_any_step_of_a_pre_copy_is_left_out(tmp_path: Path) -> None:
    numbers, known = random_numbers(), places(tmp_path)
    chosen = numbers.sample(sorted(known), PLACES)
    struck = 0
    for place in chosen:
        number = numbers.randint(1, known[place])
        print("ends before call", number, "of", place)
        with family(tmp_path) as (pid, children):
            with engine() as source:
                steps = Steps(children[0], place, number)
                with steps.watched():
                    live = pre_copy(source, pid)
                struck += steps.struck
                assert {pid, children[1]} <= set(live.processes)
            assert not is_traced(pid) and not is_traced(children[1])
    assert struck > PLACES / 2


def test_a_child_that_ends_before_its_descriptors_are_counted_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with family(tmp_path) as (pid, children), engine() as source:
        attach = LiveSource.attach

        def attach_and_lose(live: LiveSource) -> None:
            attach(live)
            os.kill(children[0], signal.SIGKILL)
            wait_until(lambda: not READER.exists(children[0]), "it has gone")

        monkeypatch.setattr(LiveSource, "attach", attach_and_lose)
        assert source.attach(pb.Attach(pid=pid)).threads == 2


def test_a_child_that_has_gone_when_its_turn_comes_to_be_held_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder reads who is there, then looks at each."""
    with family(tmp_path) as (pid, children):
        stat = ProcReader.stat
        looks: Counter[int] = Counter()

        def stat_late(reader: ProcReader, of: int, tid: int | None = None) -> object:
            looks[of] += 1
            if of == children[0] and looks[of] == 1:
                os.kill(of, signal.SIGKILL)
                wait_until(lambda: not READER.exists(of), "it has gone")
            return stat(reader, of, tid)

        source = LiveSource(pid, LEAF_NAME, DumpOptions())
        monkeypatch.setattr(ProcReader, "stat", stat_late)
        source.attach()
        assert looks[children[0]] and set(source.processes) == {pid, children[1]}
        source.thaw()
        source.close()


def test_one_that_is_killed_while_it_stands_still_is_named_and_the_others_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with family(tmp_path) as (pid, children):
        source = LiveSource(pid, LEAF_NAME, DumpOptions())
        source.attach()

        def look(*_: object, **__: object) -> None:
            os.kill(children[0], signal.SIGKILL)
            wait_until(lambda: has_ended(children[0], READER), "it has ended")
            raise ProcessLookupError("whatever was to be done with it")

        monkeypatch.setattr(LiveSource, "_look", look)
        with pytest.raises(TraceeError, match=f"pid {children[0]}: was killed while it stood still"):
            source.freeze()
        source.thaw()
        source.close()
        assert not is_traced(pid) and not is_traced(children[1])
