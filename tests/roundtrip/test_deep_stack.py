"""A stack that grows while a process is copied: whoever lets go of the process leaves alone what lies there by then."""

import os
import signal
from pathlib import Path

import pytest

from tests.program_build import compile_into, start_here
from tests.requires import require_root
from tests.roundtrip.targets import attached
from tests.waiting import wait_until

SOURCE = Path(__file__).with_name("deep_stack.c")


@pytest.mark.parametrize("frozen", [False, True], ids=["it runs", "it stands still"])
def test_no_frame_is_overwritten(tmp_path: Path, frozen: bool) -> None:
    require_root()
    compile_into(tmp_path / "deep_stack", ["gcc", "-O1", "-Wall", "-Werror", str(SOURCE)])
    with start_here([str(tmp_path / "deep_stack"), str(tmp_path)]) as process:
        wait_until(lambda: (tmp_path / "ready").exists(), "it waits")
        with attached(process.pid) as source:
            source.scan()
            os.kill(process.pid, signal.SIGUSR1)
            wait_until(lambda: (tmp_path / "deep").exists(), "it is deep down")
            if frozen:
                source.freeze()
        os.kill(process.pid, signal.SIGUSR1)
        assert process.wait(timeout=20) == 0
