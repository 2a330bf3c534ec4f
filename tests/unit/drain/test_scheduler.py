"""The scheduler over whole histories of made-up fleets, in which anything fails at any time, and by value."""

import random
from collections import Counter
from dataclasses import replace
from typing import Literal

import pytest

from migrate.drain.scheduler import Begin, Drain, Enter, Leg, Step, decide, decide_after_hook
from tests.fakes.drain_history import Chances, History

STEPS = tuple(Step(pid, destination, 10.0) for pid, destination in ((1, "b"), (2, "b"), (3, "c"), (4, "c")))


@pytest.mark.parametrize("seed", range(150))
def test_no_random_history_breaks_a_rule(seed: int) -> None:
    numbers = random.Random(seed)
    History(numbers, hosts=numbers.randint(1, 20), loads=numbers.randint(1, 30)).play()


def test_a_drain_that_nothing_disturbs_moves_everything_that_has_a_place() -> None:
    for seed in range(20):
        history = History(random.Random(seed), hosts=8, loads=20, chances=Chances())
        history.play()
        assert not history.disturbed
        assert history.drain.state == "done" or history.drain.closes_at is not None


def test_it_waits_for_its_window_and_begins_nothing_that_would_not_end_in_it() -> None:
    drain = Drain("waiting", STEPS, opens_at=100.0, closes_at=115.0, max_parallel=4, max_parallel_per_destination=4)
    assert decide(drain, "a", [], 99.0) == []
    assert decide(drain, "a", [], 100.0) == [Enter("running")]
    running = replace(drain, state="running")
    assert len(decide(running, "a", [], 104.0)) == 4
    [over] = decide(running, "a", [], 106.0)
    assert isinstance(over, Enter) and over.state == "failed" and "4 not begun" in over.message


def test_a_window_that_passed_unseen_moves_nothing() -> None:
    [over] = decide(Drain("waiting", STEPS, 100.0, 200.0), "a", [], 201.0)
    assert isinstance(over, Enter) and over.state == "failed"


@pytest.mark.parametrize(
    ("state", "says"), [("running", "the plan has no move"), ("returning", "nothing to bring back")]
)
def test_a_drain_without_a_move_says_so_in_words(state: str, says: str) -> None:
    [over] = decide(Drain(state, (), and_back=state == "returning"), "a", [], 0.0)
    assert isinstance(over, Enter) and over.state == "done" and says in over.message and "0 of 0" not in over.message


def test_one_failure_stops_the_rest_where_that_is_asked_for() -> None:
    drain = Drain("running", STEPS, max_parallel=1, on_failure="stop")
    [over] = decide(drain, "a", [Leg("x", "away", "a", 1, "b", "failed")], 0.0)
    assert isinstance(over, Enter) and over.state == "failed"


@pytest.mark.parametrize(
    ("states", "on_failure", "state", "says"),
    [
        (["done", "cancelled"], "skip", "cancelled", "1 of 2 moved, 1 cancelled"),
        (["failed", "cancelled"], "skip", "failed", "0 of 2 moved, 1 failed, 1 cancelled"),
        (["cancelled"], "stop", "cancelled", "0 of 2 moved, 1 cancelled, 1 not begun"),
        (["done", "cancelled"], "back", "returning", "1 of 2 moved, 1 cancelled; bringing back what had moved"),
        (["done", "refused"], "skip", "failed", "1 of 2 moved, 1 failed"),
    ],
)
def test_what_was_cancelled_is_neither_failed_nor_done(
    states: list[str], on_failure: Literal["skip", "stop", "back"], state: str, says: str
) -> None:
    drain = Drain("running", STEPS[:2], on_failure=on_failure)
    legs = [Leg(str(pid), "away", "a", pid, "b", ended) for pid, ended in enumerate(states, 1)]
    assert decide(drain, "a", legs, 0.0) == [Enter(state, says)]


def test_a_way_back_that_somebody_cancelled_is_told_as_that() -> None:
    away = Leg("x", "away", "a", 1, "b", "done", moved_pid=1)
    back = Leg("y", "back", "b", 1, "a", "cancelled")
    found = decide(Drain("returning", STEPS[:1], and_back=True), "a", [away, back], 0.0)
    assert found == [Enter("cancelled", "0 of 1 brought back, 1 cancelled")]
    [over] = decide(Drain("returning", STEPS[:1], on_failure="back"), "a", [away, back], 0.0)
    assert isinstance(over, Enter) and over.state == "failed", "a failed hook of the host brought it back"


def test_other_migrations_to_a_host_count() -> None:
    drain = Drain("running", STEPS, max_parallel=4, busy=Counter({"b": 1}))
    begun = [action.destination for action in decide(drain, "a", [], 0.0) if isinstance(action, Begin)]
    assert begun == ["c"]


@pytest.mark.parametrize(
    ("state", "entering", "on_failure", "goes_to"),
    [
        ("waiting", "running", "skip", "running"), ("waiting", "running", "stop", "failed"),
        ("waiting", "running", "back", "failed"), ("running", "done", "skip", "done"),
        ("running", "done", "stop", "failed"), ("running", "away", "back", "returning"),
        ("running", "failed", "back", "failed"), ("running", "cancelled", "stop", "cancelled"),
        ("away", "returning", "stop", "failed"), ("returning", "done", "back", "failed"),
    ],
)  # fmt: skip
def test_a_failed_hook_of_the_host_goes_as_on_failure_says(
    state: str, entering: str, on_failure: str, goes_to: str
) -> None:
    found = decide_after_hook(state, Enter(entering, "3 of 3 moved"), on_failure, "hook x: exit code 7")
    assert found == Enter(goes_to, "3 of 3 moved; hook x: exit code 7")
