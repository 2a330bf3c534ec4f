"""A stop finds no thread inside the vDSO, within a bounded effort, and whoever was let run meanwhile is unharmed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import TraceeError
from core.memory.ranges import Ranges
from core.tracee.family import read_vdso_code
from core.tracee.freezer import freeze, stop_process
from core.vdso.mark import NO_CODE, VdsoCode
from tests.program_build import Run
from tests.requires import require_root
from tests.roundtrip.targets import READER, is_traced, ready

STOPS = 60
EVERYWHERE = Ranges.of([(0, 1 << 47)])


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Two threads that do nothing but ask the vDSO."""
    require_root()
    with ready("vdso_time.c", tmp_path) as started:
        yield started


def passes(run: Run) -> bool:
    run.release()
    return run.result() == "PASS"


def count_inside(pid: int, code: VdsoCode, places: Ranges) -> int:
    """How many of many stops find a thread in one of the places."""
    found = 0
    for _ in range(STOPS):
        with freeze(pid, READER, code=code) as frozen:
            found += any(places.contains(thread.registers.ip) for thread in frozen.threads)
    return found


def test_hardly_any_stop_finds_a_thread_inside(run: Run) -> None:
    code = read_vdso_code(run.pid, READER)
    assert count_inside(run.pid, NO_CODE, code.spans) > 0
    assert count_inside(run.pid, code, code.spans) <= STOPS // 10
    assert passes(run)


def test_a_thread_that_is_always_inside_is_left_there_when_the_kernel_knows_the_code(run: Run) -> None:
    frozen_tids = READER.tids(run.pid)
    with freeze(run.pid, READER, code=VdsoCode(EVERYWHERE)) as frozen:
        assert frozen.tids == frozen_tids
    assert not is_traced(run.pid)
    assert passes(run)


def test_behind_a_proxy_such_a_thread_is_an_error_and_runs_on(run: Run) -> None:
    with pytest.raises(TraceeError, match="always found inside its vDSO"):
        stop_process(run.pid, READER, code=VdsoCode(EVERYWHERE, proxied=True))
    assert not is_traced(run.pid)
    assert passes(run)


def test_an_address_in_a_signal_frame_is_no_reason_to_refuse(run: Run) -> None:
    """It may be an old one that nobody returns to."""
    stack = next(vma for vma in READER.maps(run.pid) if vma.name == "[stack]")
    pointed_at = VdsoCode(Ranges.of([(stack.start, stack.end)]), proxied=True)
    with freeze(run.pid, READER, code=pointed_at) as frozen:
        assert len(frozen.threads) == 2
    assert passes(run)
