"""The tests give the pool of huge pages back as they found it, also those that overlap and after one was killed."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.huge_pages import COUNT, huge_pages_on_demand


@pytest.mark.parametrize("last", [0, 1])
def test_the_last_of_overlapping_sessions_gives_back_what_was_before_the_first(tmp_path: Path, last: int) -> None:
    pool, note = tmp_path / "pool", tmp_path / "note"
    pool.write_text("3\n")
    sessions = [ExitStack(), ExitStack()]
    for session in sessions:
        session.enter_context(huge_pages_on_demand(pool, note))
        assert int(pool.read_text()) == COUNT
    sessions[1 - last].close()
    assert int(pool.read_text()) == COUNT, "the other one still needs them"
    sessions[last].close()
    assert pool.read_text() == "3\n" and note.read_text() == ""


def test_what_a_killed_session_left_is_given_back_by_the_next(tmp_path: Path) -> None:
    pool, note = tmp_path / "pool", tmp_path / "note"
    pool.write_text(str(COUNT))
    note.write_text("3\n")
    with huge_pages_on_demand(pool, note):
        assert int(pool.read_text()) == COUNT
    assert pool.read_text() == "3\n"


def test_a_pool_that_is_large_enough_is_left_alone(tmp_path: Path) -> None:
    pool, note = tmp_path / "pool", tmp_path / "note"
    pool.write_text("4000")
    with huge_pages_on_demand(pool, note):
        assert pool.read_text() == "4000"
    assert pool.read_text() == "4000"
