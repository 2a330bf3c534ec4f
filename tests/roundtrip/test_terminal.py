"""A shell's job (`-j`) gets the terminal of whoever restores it, set as its own was; without -j it is refused."""

import os
import pty
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import DumpOptions, FileChoices, RestoreOptions, dump, restore
from core.errors import Refused
from tests.requires import require_root
from tests.roundtrip.targets import ended_afterwards, is_traced
from tests.waiting import wait_until

JOB = """
import os, select, sys
open(sys.argv[1] + "/ready", "w").close()
while True:
    word = os.read(0, 100)
    os.write(1, b"[" + word + b"]")
"""


@pytest.fixture(autouse=True)
def _root() -> None:
    require_root()


@contextmanager
def terminals() -> Iterator[tuple[int, str]]:
    """A pseudo-terminal: its master, and the path of the other end."""
    master, slave = pty.openpty()
    path = os.ttyname(slave)
    os.close(slave)
    try:
        yield master, path
    finally:
        os.close(master)


@contextmanager
def job(folder: Path, path: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program whose standard streams are the terminal, which is raw."""
    fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    argv = [sys.executable, "-I", "-S", "-c", JOB, str(folder)]
    with subprocess.Popen(argv, stdin=fd, stdout=fd, stderr=fd, start_new_session=True) as process:
        os.close(fd)
        try:
            wait_until((folder / "ready").exists, "the job is ready")
            yield process
        finally:
            process.kill()


def test_a_job_goes_on_in_the_terminal_that_it_is_restored_from(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with terminals() as (first, path), terminals() as (second, other_path):
        with job(tmp_path, path) as process:
            os.write(first, b"one")
            assert os.read(first, 5) == b"[one]"
            dump(process.pid, images, DumpOptions(shell_job=True, files=FileChoices(terminal="given")))
            process.wait()
        with pytest.raises(Refused, match="is the terminal of a shell's job"):
            restore(images, RestoreOptions(shell_job=True))
        report = restore(images, RestoreOptions(shell_job=True, terminal=other_path))
        with ended_afterwards(report.pid):
            assert {os.readlink(f"/proc/{report.pid}/fd/{fd}") for fd in (0, 1, 2)} == {other_path}
            assert not termios.tcgetattr(second)[3] & (termios.ICANON | termios.ECHO)
            os.write(second, b"two")
            assert os.read(second, 5) == b"[two]"


def test_without_consent_a_terminal_is_refused_by_name(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with terminals() as (_, path), job(tmp_path, path) as process:
        with pytest.raises(Refused) as caught:
            dump(process.pid, images, DumpOptions())
        assert [blocker.subject for blocker in caught.value.blockers] == [f"fd {fd} ({path})" for fd in (0, 1, 2)]
        assert not is_traced(process.pid)
