"""A process that job control has stopped comes back stopped, and goes on where it was when it is continued."""

import os
import signal
from pathlib import Path

import pytest

from core import DumpOptions, RestoreOptions, dump, restore
from tests.roundtrip.targets import READER, ended_afterwards, ready
from tests.waiting import wait_until


def stop(pid: int, number: int) -> None:
    os.kill(pid, number)
    wait_until(lambda: is_stopped(pid), f"pid {pid} stops")


def is_stopped(pid: int) -> bool:
    return all(READER.status(pid, tid).state == "T" for tid in READER.tids(pid))


@pytest.mark.parametrize("name", ["counter.c", "threads50.c"])
def test_a_stopped_process_comes_back_stopped(name: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready(name, tmp_path) as run:
        stop(run.pid, signal.SIGSTOP)
        dump(run.pid, images, DumpOptions())
        run.stop()
        restore(images, RestoreOptions())
        with ended_afterwards(run.pid):
            wait_until(lambda: is_stopped(run.pid), "the copy stands still")
            run.release()
            os.kill(run.pid, signal.SIGCONT)
            assert run.result() == "PASS"


def test_a_stopped_process_stays_stopped_when_it_is_left_running(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    with ready("counter.c", tmp_path) as run:
        stop(run.pid, signal.SIGSTOP)
        dump(run.pid, images, DumpOptions(leave_running=True))
        wait_until(lambda: is_stopped(run.pid), "it stands still again")
        run.release()
        os.kill(run.pid, signal.SIGCONT)
        assert run.result() == "PASS"
