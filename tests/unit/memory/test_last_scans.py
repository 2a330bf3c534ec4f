"""The scan of all processes at once before their last look: only what is of this very stop is believed."""

import pytest

from core.memory.dirty import uffd
from core.memory.dirty.uffd import scan_last
from core.memory.ranges import Ranges
from tests.requires import require_root
from tests.unit.memory.test_uffd_tracker import area, tracker_of


def test_a_scan_for_a_last_look_that_never_came_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    require_root()
    with area(16) as memory, tracker_of(memory) as tracker:
        memory.fill(7, 0, 12)
        tracker.collect_and_rearm(memory.vmas)
        scan_last([(tracker, memory.vmas)])
        memory.store(3)
        monkeypatch.setattr(uffd, "scan_processes", lambda *_: [None])
        scan_last([(tracker, memory.vmas)])
        told = tracker.collect_last(memory.vmas).dirty.ranges
        assert told.intersect(Ranges.of([memory.span(0, 12)])) == Ranges.of([memory.span(3, 4)])
