"""Processes of one memory (CLONE_VM) that execute programs or end while they move: the others keep all of it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import DumpOptions, LiveSource, dump, pre_dump
from core.errors import Refused
from core.kernel.calls import kcmp
from core.live.told import Froze
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.tracee.family import has_ended
from tests.program_build import compile_into, start_here
from tests.requires import require_root
from tests.roundtrip.one_host import moved
from tests.roundtrip.targets import attached, home_cgroup, is_traced
from tests.waiting import wait_until

READER = ProcReader()
KCMP_VM = 1
RSEQ_BYTES = 32
SOURCE = Path(__file__).with_name("sharers.c")


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@contextmanager
def sharers(folder: Path) -> Iterator[list[int]]:
    """The root, its child, and the two that have the memory of that."""
    program, told = folder / "sharers", folder / "told"
    compile_into(program, ["gcc", "-O1", "-Wall", "-Werror", str(SOURCE)])
    with start_here([str(program), str(told)]) as process:
        try:
            wait_until(lambda: told.exists() and told.read_text().endswith("\n"), "all of them run")
            yield [process.pid, *(int(word) for word in told.read_text().split())]
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def tell(pid: int, number: int) -> None:
    """It executes another program, or ends, and has."""
    os.kill(pid, number)
    if number == signal.SIGUSR1:
        wait_until(lambda: READER.comm(pid) == "sleep", "it has executed another program")
        wait_until(lambda: READER.stat(pid).state == "S", "that sleeps")
    else:
        wait_until(lambda: has_ended(pid, READER), "it has ended")


def content(pid: int, vma: Vma) -> bytes:
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        return os.pread(memory, vma.size, vma.start)
    finally:
        os.close(memory)


def assert_same(pid: int, copy: int) -> None:
    assert READER.comm(copy) == READER.comm(pid)
    differing = []
    for vma in READER.maps(copy):
        if vma.writable and vma.name != "[stack]":  # the unused end of which has lent itself to us
            pairs = zip(content(pid, vma), content(copy, vma), strict=True)
            differing += [vma.start + place for place, (one, other) in enumerate(pairs) if one != other]
    # The kernel writes into the registered rseq area when it likes.
    assert not differing or differing[-1] - differing[0] < RSEQ_BYTES


def who_share(pids: list[int]) -> list[bool]:
    return [kcmp(one, other, KCMP_VM) == 0 for one in pids for other in pids]


@pytest.mark.parametrize("who", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("late", [False, True])
def test_one_that_goes_leaves_the_memory_to_the_others(
    who: int, number: int, late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze = LiveSource.freeze

    def freeze_late(source: LiveSource) -> Froze:
        tell(pids[who], number)
        return freeze(source)

    if late:
        monkeypatch.setattr(LiveSource, "freeze", freeze_late)
    with sharers(tmp_path) as pids, home_cgroup(pids[0]):
        living = [pid for pid in pids if number == signal.SIGUSR1 or pid != pids[who]]
        with moved(pids[0], "auto", between=[lambda: None if late else tell(pids[who], number)]) as move:
            copies = {READER.status(copy).ns_pid[-1]: copy for copy in move.parked.pids}
            assert set(copies) == set(living)
            assert who_share([copies[pid] for pid in living]) == who_share(living)
            for pid in living:
                assert_same(pid, copies[pid])


@pytest.mark.parametrize("who", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
@pytest.mark.parametrize("late", [False, True])
def test_nothing_of_ours_is_left_with_the_others(who: int, number: int, late: bool, tmp_path: Path) -> None:
    with sharers(tmp_path) as pids, home_cgroup(pids[0]):
        with attached(pids[0]) as source:
            source.scan()
            tell(pids[who], number)
            if not late:
                source.freeze()
        for pid in pids if number == signal.SIGUSR1 else set(pids) - {pids[who]}:
            assert not is_traced(pid) and READER.stat(pid).state in ("R", "S")
            assert not any("uw" in one.flags for one in READER.smaps(pid))
            assert not any(vma.executable and not vma.path for vma in READER.maps(pid)), "our area is left"


def test_a_dump_that_runs_on_leaves_nothing_behind(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with sharers(tmp_path) as pids:
        before = [vma[:6] for vma in READER.maps(pids[1])]
        dump(pids[0], images, DumpOptions(leave_running=True))
        assert [vma[:6] for vma in READER.maps(pids[1])] == before
        assert not (images / f"mm-{pids[2]}.img").exists() and (images / f"mm-{pids[1]}.img").exists()


def test_a_pre_dump_is_refused(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with sharers(tmp_path) as pids, pytest.raises(Refused) as refused:
        pre_dump(pids[0], images, DumpOptions())
    assert f"shares its memory with process {pids[1]}" in str(refused.value)
