"""A tree that forks all the time is stopped whole, or is let run as it was."""

from pathlib import Path
from typing import Any

import pytest

from core import DumpOptions, dump
from core.errors import TraceeError
from core.images import kinds
from core.images.store import read_directory
from core.proc.reader import ProcReader
from core.tracee import family
from core.tracee.family import Family
from tests.requires import require_root
from tests.roundtrip.targets import READER, is_traced, ready
from tests.waiting import wait_until


def test_nobody_is_missed_however_often_it_is_looked_at(tmp_path: Path) -> None:
    require_root()
    with ready("tree_forking.c", tmp_path) as run:
        for number in range(10):
            images = tmp_path / f"images{number}"
            images.mkdir()
            dump(run.pid, images, DumpOptions(leave_running=True))
            entries = read_directory(images).all(kinds.PSTREE)
            assert entries[0].pid == run.pid and {entry.ppid for entry in entries[1:]} <= {run.pid}
        run.release()
        assert run.result() == "PASS"  # it has waited for every child, and each has ended as it should


def test_one_that_does_not_settle_is_let_run_with_all_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    images = tmp_path / "images"
    images.mkdir()
    look = family._read_all
    stopped: set[int] = set()

    def never_settled(root: int, reader: ProcReader, known: dict[int, Any]) -> tuple[Family, bool]:
        found, _ = look(root, reader, known)
        stopped.update(one.pid for one in found.living if is_traced(one.pid))
        return found, True

    monkeypatch.setattr(family, "_read_all", never_settled)
    monkeypatch.setattr(family, "FREEZE_DEADLINE_S", 0.3)
    with ready("tree_forking.c", tmp_path) as run:
        with pytest.raises(TraceeError, match="makes processes faster than they can be stopped"):
            dump(run.pid, images, DumpOptions())
        assert run.pid in stopped
        assert not is_traced(run.pid) and list(images.iterdir()) == []
        wait_until(lambda: READER.children(run.pid), "it forks on")
        run.release()
        assert run.result() == "PASS"
