"""The tables of migrate/machine.py, and the diagram in ARCHITECTURE.md that is printed from them."""

from pathlib import Path

import pytest

from migrate.errors import OutOfOrder
from migrate.machine import (
    COPY_TABLE,
    TABLE,
    CopyEvent,
    CopyState,
    Event,
    State,
    can_abort,
    can_roll_back,
    diagram,
    follow,
    follow_copy,
)
from tests.requires import require

ARCHITECTURE = Path(__file__).resolve().parents[3] / "ARCHITECTURE.md"


def reachable_from(start: State) -> set[State]:
    found, todo = {start}, [start]
    while todo:
        state = todo.pop()
        after = {new for (old, _), new in TABLE.items() if old is state} - found
        found |= after
        todo += after
    return found


def test_the_good_way_leads_from_idle_to_done() -> None:
    state = State.IDLE
    for event in (
        Event.AGREED, Event.ATTACHED, Event.ROUND_LANDED, Event.FROZE, Event.HANDED_OVER, Event.RESUMED, Event.RELEASED
    ):  # fmt: skip
        state = follow(state, event)
    assert state is State.DONE


def test_rolled_back_is_unreachable_once_handing_over() -> None:
    assert State.ROLLED_BACK not in reachable_from(State.HANDING_OVER)


def test_every_state_before_handing_over_can_roll_back_and_none_after() -> None:
    reversible = {State.IDLE, State.AGREED, State.PRECOPY, State.FROZEN, State.ROLLED_BACK}
    assert {state for state in State if can_roll_back(state)} == reversible


def test_only_the_operator_gets_a_source_back_out_of_doubt() -> None:
    ways = {event for (state, event), new in TABLE.items() if new is State.KEPT_SOURCE}
    assert ways == {Event.OPERATOR_KEPT_SOURCE}


def test_a_copy_that_was_told_to_resume_cannot_be_aborted() -> None:
    assert not can_abort(CopyState.RESUMING) and not can_abort(CopyState.RESUMED)
    with pytest.raises(OutOfOrder, match="RESUMING"):
        follow_copy(CopyState.RESUMING, CopyEvent.ABORT)


def test_a_copy_that_is_being_removed_cannot_resume() -> None:
    with pytest.raises(OutOfOrder):
        follow_copy(CopyState.ABORTING, CopyEvent.RESUME)


def test_resume_and_abort_can_be_said_twice() -> None:
    assert follow_copy(CopyState.RESUMED, CopyEvent.RESUME) is CopyState.RESUMED
    assert follow_copy(CopyState.ABORTED, CopyEvent.ABORT) is CopyState.ABORTED


def test_every_copy_state_knows_what_a_reboot_makes_of_it() -> None:
    assert {state for state, event in COPY_TABLE if event is CopyEvent.REBOOTED} == set(CopyState)


def test_the_diagram_names_every_line_of_both_tables() -> None:
    assert diagram().count(" --> ") == len(TABLE) + len(COPY_TABLE) + 2


def test_architecture_shows_the_diagram_as_the_tables_print_it() -> None:
    require(ARCHITECTURE.exists(), "ARCHITECTURE.md")
    text = ARCHITECTURE.read_text()
    begin, end = "<!-- machine: begin -->\n", "\n<!-- machine: end -->"
    assert text.partition(begin)[2].partition(end)[0].strip() == diagram()
