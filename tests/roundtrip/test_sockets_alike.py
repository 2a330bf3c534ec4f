"""In the freeze sockets that are alike are asked once, and what is written of them is what each of them has."""

from pathlib import Path
from typing import Any

import pytest

from core import DumpOptions, LiveSource
from core.errors import KernelLacks
from core.images import kinds
from core.kernel.socket_records import MOST_KINDS, SocketRecords, open_socket_records
from core.resources import sightings
from tests.requires import require_root
from tests.roundtrip.targets import LEAF_NAME, home_cgroup, ready


def frozen_files(pid: int) -> list[str]:
    """Entries of its open files, without what they are numbered by."""
    source = LiveSource(pid, LEAF_NAME, DumpOptions())
    try:
        source.attach()
        source.scan()
        entries = source.freeze().images.all(kinds.FILES)
    finally:
        source.thaw()
        source.close()
    for entry in entries:
        entry.id = entry.usk.id = entry.isk.id = 0
    return sorted(str(entry) for entry in entries)


def test_most_of_many_are_not_asked_and_are_written_as_if_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_root()
    try:
        with open_socket_records():
            pass
    except KernelLacks as error:
        pytest.skip(str(error))
    found: list[int] = []
    kinds_of = SocketRecords.kinds

    def noted(self: SocketRecords, task: int, fds: Any) -> Any:
        result = kinds_of(self, task, fds)
        found.extend(result)
        return result

    monkeypatch.setattr(SocketRecords, "kinds", noted)
    with ready("sockets_alike.c", tmp_path) as run, home_cgroup(run.pid):
        alike = frozen_files(run.pid)
        in_kinds = [kind for kind in found if kind >= 0]
        assert len(in_kinds) > 100 and len(set(in_kinds)) <= MOST_KINDS
        found.clear()
        monkeypatch.setattr(sightings, "MANY_SOCKETS", 10_000)
        assert frozen_files(run.pid) == alike
        assert not found
        run.release()
        assert run.result() == "PASS"
