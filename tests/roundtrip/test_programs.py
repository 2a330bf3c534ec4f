"""Every self-checking program survives dump and restore into the same place."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from core import RestoreOptions, dump, restore
from tests.program_build import Program, discover

# Trees need an init that reaps: test_trees.py.
PROGRAMS = [one for one in discover() if not (one.cpu_lacks() or one.later or one.name.startswith("tree_"))]


@contextmanager
def ended_afterwards(pid: int) -> Iterator[int]:
    """The restored process is our child: kill and reap it whatever happens."""
    try:
        yield pid
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_program_passes_after_dump_and_restore(program: Program, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with program.start(Path(os.path.realpath(tmp_path)) / "s") as run:
        pid = run.wait_ready()
        dump(pid, images, program.dump_options)
        run.stop()
        report = restore(images, RestoreOptions())
        assert report.pid == pid
        with ended_afterwards(pid):
            run.release()
            assert run.result() == "PASS"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_program_runs_on_undisturbed_after_leave_running(program: Program, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with program.start(Path(os.path.realpath(tmp_path)) / "s") as run:
        pid = run.wait_ready()
        dump(pid, images, replace(program.dump_options, leave_running=True))
        assert "TracerPid:\t0" in Path(f"/proc/{pid}/status").read_text()
        run.release()
        assert run.result() == "PASS"
