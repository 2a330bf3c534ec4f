"""On a host that booted later the clocks of a program go on, in a time namespace; elsewhere there is none."""

import os
import time
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, restore
from core.images import kinds
from core.images.store import read_directory, write_directory
from tests.roundtrip.targets import READER, ended_afterwards, ready

LATER_S = 1_000_000


def set_back(images: Path) -> None:
    """As if the source had been up for LATER_S more: this host then booted later."""
    content = read_directory(images)
    clocks = content.one(kinds.TIMENS, 0)
    clocks.monotonic.tv_sec += LATER_S
    clocks.boottime.tv_sec += LATER_S
    write_directory(content, images)


@pytest.mark.parametrize("name", ["clock_continues.c", "posix_timers.c", "posix_timer_overrun.c", "timerfd.c"])
def test_a_program_keeps_its_clock_where_the_host_booted_later(name: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready(name, tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()
        set_back(images)
        report = restore(images, RestoreOptions())
        with ended_afterwards(run.pid):
            assert READER.namespaces(run.pid)["time"] != READER.namespaces(os.getpid())["time"]
            assert any("time namespace" in notice for notice in report.notices)
            run.release()
            assert run.result() == "PASS"
            if name == "clock_continues.c":
                ahead = int((run.scratch_dir / "clock").read_text()) / 1e9 - time.monotonic()
                assert LATER_S - 1 < ahead < LATER_S + 10


def test_a_program_in_a_time_namespace_keeps_its_clock_when_it_moves_on(tmp_path: Path) -> None:
    images, again = tmp_path / "images", tmp_path / "again"
    images.mkdir()
    again.mkdir()
    with ready("clock_continues.c", tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()
        set_back(images)
        restore(images, RestoreOptions())
        with ended_afterwards(run.pid):
            dump(run.pid, again, DumpOptions())
        restore(again, RestoreOptions())
        with ended_afterwards(run.pid):
            run.release()
            assert run.result() == "PASS"


def test_there_is_no_time_namespace_without_need(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("clock_continues.c", tmp_path) as run:
        dump(run.pid, images, DumpOptions())
        run.stop()
        restore(images, RestoreOptions())
        with ended_afterwards(run.pid):
            assert READER.namespaces(run.pid)["time"] == READER.namespaces(os.getpid())["time"]
            run.release()
            assert run.result() == "PASS"
