"""Before a copy opens files of the network, what was written to them here has left this host. A tmpfs plays network."""

import errno
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import core.live.network_files
import core.proc.mountinfo
from core import DumpOptions, LiveSource
from core.errors import CollectError
from tests.requires import require_root
from tests.roundtrip.targets import LEAF_NAME, home_cgroup, is_traced
from tests.waiting import wait_until

PROGRAM = """
import mmap, os, signal, sys
folder = sys.argv[1]
written = os.open(folder + "/written", os.O_WRONLY | os.O_CREAT)
read = os.open(folder + "/read", os.O_RDONLY | os.O_CREAT)
other = os.open(folder + "/mapped", os.O_RDWR | os.O_CREAT)
os.ftruncate(other, 4096)
mapped = mmap.mmap(other, 4096)
os.close(other)
os.mkfifo(folder + "/fifo")
fifo = os.open(folder + "/fifo", os.O_RDWR)
open(folder + "/ready", "w").close()
while True:
    signal.pause()
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, Path]]:
    """Its PID, and the directory on what is taken for a file system of the network."""
    require_root()
    names = core.proc.mountinfo.NETWORK_FILESYSTEMS | {"tmpfs"}
    monkeypatch.setattr(core.proc.mountinfo, "NETWORK_FILESYSTEMS", names)
    null = subprocess.DEVNULL
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as name,
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", PROGRAM, name], stdin=null, stdout=null, stderr=null
        ) as process,
    ):
        try:
            wait_until(Path(name, "ready").exists, "the program is ready")
            with home_cgroup(process.pid):
                yield process.pid, Path(name)
        finally:
            process.kill()


def frozen_with(pid: int, patch: pytest.MonkeyPatch, fsync: Callable[[int], None]) -> None:
    """Attach, freeze with that fsync(2), and let it run on."""
    source = LiveSource(pid, LEAF_NAME, DumpOptions())
    try:
        source.attach()
        source.scan()
        patch.setattr(os, "fsync", fsync)
        source.freeze()
    finally:
        patch.undo()
        source.thaw()
        source.close()
        assert not is_traced(pid)


def test_what_is_written_to_is_flushed_while_it_runs_and_again_in_the_freeze(
    program: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, folder = program
    flushed: list[tuple[str, bool]] = []

    def note(fd: int) -> None:
        flushed.append((os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), is_traced(pid)))

    frozen_with(pid, monkeypatch, note)
    assert sorted(flushed) == [(name, frozen) for name in ("fifo", "mapped", "written") for frozen in (False, True)]
    assert folder.exists()


def test_a_file_that_cannot_be_flushed_is_named_and_it_runs_on(
    program: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/written"):
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with pytest.raises(CollectError, match="/written: its file system does not take what was written: Disk quota"):
        frozen_with(program[0], monkeypatch, fail)


def test_a_server_that_does_not_answer_ends_the_freeze_not_the_process(
    program: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, answered = program[0], threading.Event()

    def hang(fd: int) -> None:
        if is_traced(pid):
            answered.wait()

    monkeypatch.setattr(core.live.network_files, "FREEZE_LIMIT_S", 0.2)
    with pytest.raises(CollectError, match=r"has not taken what was written within 0\.2 s"):
        frozen_with(pid, monkeypatch, hang)
    answered.set()


def test_where_nothing_of_the_network_is_mounted_nothing_is_flushed(
    program: tuple[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(fd: int) -> None:
        raise AssertionError(os.readlink(f"/proc/self/fd/{fd}"))

    monkeypatch.undo()
    frozen_with(program[0], monkeypatch, never)
