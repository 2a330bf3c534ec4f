"""Every tracker of this kernel copies a wild process exactly. MIGRATE_EXACT_RUNS: how often each (3 times)."""

import os
from pathlib import Path

import pytest

from core.memory.dirty.choose import probe_uffd_tracking
from core.memory.dirty.soft_dirty import probe_soft_dirty
from core.options import TrackChoice
from tests.requires import require, require_root
from tests.roundtrip.dirty_exact import build, copy_while_it_runs

RUNS = int(os.environ.get("MIGRATE_EXACT_RUNS", "3"))
# A kernel need not have soft-dirty bits, and there is nothing to install: tests/vm has kernels that do.
TRACKERS: tuple[TrackChoice, ...] = ("uffd-wp", "hash", *(("soft-dirty",) if probe_soft_dirty() else ()))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    require_root()
    return build(tmp_path_factory.mktemp("dirty"))


@pytest.mark.parametrize("run", range(RUNS))
@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_process_copied_while_it_writes_is_the_same_to_the_byte(
    program: Path, tracker: TrackChoice, run: int
) -> None:
    if tracker == "uffd-wp":
        require(probe_uffd_tracking(), "userfaultfd WP_ASYNC and PAGEMAP_SCAN (Linux 6.7)")
    outcome = copy_while_it_runs(program, tracker, seconds=2.5)
    assert outcome.wrong == []
    assert outcome.rounds > 5
    assert outcome.pages > 4096
