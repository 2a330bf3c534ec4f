"""A process in vfork(2) cannot be stopped: it is waited for a while, then refused by the name of its child."""

from pathlib import Path

import pytest

from core import DumpOptions, PreflightOptions, collect_facts, dump
from core.errors import TraceeError
from tests.requires import require_root
from tests.roundtrip.targets import READER, is_traced, ready
from tests.waiting import wait_until


def test_a_child_that_takes_too_long_is_named_and_both_live_on(tmp_path: Path) -> None:
    require_root()
    images = tmp_path / "images"
    images.mkdir()
    with ready("vfork_held.c", tmp_path) as run:
        wait_until(lambda: READER.children(run.pid) and READER.stat(run.pid).state == "D", "it is in vfork")
        child = READER.children(run.pid)[0]
        words = f"pid {run.pid}: is in vfork\\(2\\): it waits for its child {child} \\(vfork_held"
        with pytest.raises(TraceeError, match=words) as caught:
            dump(run.pid, images, DumpOptions())
        assert caught.value.hint
        found = collect_facts(run.pid, PreflightOptions()).blockers
        named = [str(one) for one in found if one.code == "vfork"]
        assert len(named) == 1 and f"its child {child} " in named[0], found
        assert not is_traced(run.pid) and not is_traced(child)
        run.release()
        assert run.result() == "PASS"
