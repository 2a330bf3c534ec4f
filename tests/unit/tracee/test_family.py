"""A tree is read anew as far as it may have changed."""

import os
import signal
from collections.abc import Iterator

import pytest

from core.proc.reader import ProcReader
from core.tracee import family

READER = ProcReader()


@pytest.fixture
def child() -> Iterator[int]:
    """A child of ours that waits for signals."""
    pid = os.fork()
    if not pid:
        while True:
            signal.pause()
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_one_that_was_moved_to_another_group_is_looked_at_again(child: int) -> None:
    known: dict[int, family._Looked] = {}
    before = family._read_all(child, READER, known)[0].members[0]
    assert family._read_all(child, READER, known)[0].members[0] == before
    os.setpgid(child, child)
    after = family._read_all(child, READER, known)[0].members[0]
    assert (after.pgid, before.pgid) == (child, os.getpgid(0))


def test_one_that_was_killed_since_is_dead(child: int) -> None:
    known: dict[int, family._Looked] = {}
    assert not family._read_all(child, READER, known)[0].members[0].is_dead
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert family._read_all(child, READER, known)[0].members[0].is_dead
