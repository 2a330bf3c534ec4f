"""Files open with O_DIRECT: a device may be writing to memory while a round begins, and no tracker hears of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core import DumpOptions, pre_dump
from core.errors import Refused
from core.memory.ranges import EMPTY
from core.proc.direct_io import uses_direct_io
from core.proc.reader import ProcReader
from tests.requires import require, require_root
from tests.roundtrip.targets import attached, home_cgroup
from tests.waiting import wait_until

PROGRAM = """
import os, signal, sys
folder, direct = sys.argv[1:]
os.pipe2(os.O_DIRECT)  # packets
plain = os.open(folder + "/plain", os.O_RDWR | os.O_CREAT)
def open_direct(*_):
    os.open(folder + "/direct", os.O_RDONLY | os.O_CREAT | os.O_DIRECT)
signal.signal(signal.SIGUSR1, open_direct)
if direct == "now":
    open_direct()
open(folder + "/ready", "w").close()
while True:
    signal.pause()
"""


@contextmanager
def program(folder: Path, direct: str) -> Iterator[int]:
    """Its PID; it opens such a file `now`, or `later` when it is told to by SIGUSR1."""
    require_root()
    try:
        os.close(os.open(folder / "probe", os.O_RDONLY | os.O_CREAT | os.O_DIRECT))
    except OSError:
        require(False, "a file system with direct I/O below the temporary directory")
    null = subprocess.DEVNULL
    argv = [sys.executable, "-I", "-S", "-c", PROGRAM, str(folder), direct]
    with subprocess.Popen(argv, stdin=null, stdout=null, stderr=null) as process:
        try:
            wait_until((folder / "ready").exists, "the program is ready")
            with home_cgroup(process.pid):
                yield process.pid
        finally:
            process.kill()


def test_packets_of_pipes_are_no_direct_io(tmp_path: Path) -> None:
    with program(tmp_path, "later") as pid:
        assert not uses_direct_io(pid, ProcReader())
        os.kill(pid, signal.SIGUSR1)
        wait_until(lambda: uses_direct_io(pid, ProcReader()), "it has the file open")


def test_who_has_such_a_file_stands_still_for_each_look_and_what_it_had_before_goes_again(tmp_path: Path) -> None:
    with program(tmp_path, "later") as pid, attached(pid, DumpOptions(track="uffd-wp")) as source:
        assert not source.scan().stopped_s
        [process] = source.processes.values()
        process.was_sent(EMPTY)
        os.kill(pid, signal.SIGUSR1)
        wait_until(lambda: uses_direct_io(pid, ProcReader()), "it has the file open")
        assert source.scan().stopped_s
        assert process.pending.total_pages == process.present().total_pages > 0
        process.was_sent(EMPTY)
        assert source.scan().stopped_s
        assert process.pending.total_pages < process.present().total_pages / 2


def test_a_pre_dump_of_it_is_refused_by_name(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with program(tmp_path, "now") as pid, pytest.raises(Refused, match="O_DIRECT"):
        pre_dump(pid, images, DumpOptions())
