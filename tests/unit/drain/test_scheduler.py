"""The scheduler over whole histories: a made-up fleet in which anything fails at any time."""

import random
from collections import Counter
from dataclasses import replace
from typing import Literal

import pytest

from migrate.drain.scheduler import OVER, Begin, Drain, Enter, Leg, Step, Stop, decide, decide_after_hook

ENDED = ("done", "failed", "cancelled")
STEPS = tuple(Step(pid, destination, 10.0) for pid, destination in ((1, "b"), (2, "b"), (3, "c"), (4, "c")))


class History:
    """Plays a drain to its end. Every leg ends as `fate` says; nothing else is made up."""

    def __init__(self, drain: Drain, numbers: random.Random, failing: float) -> None:
        self.drain = drain
        self.numbers = numbers
        self.failing = failing
        self.legs: list[Leg] = []
        self.message = ""
        self.now = 0.0

    def play(self, turns: int = 400) -> None:
        for _ in range(turns):
            self._act()
            self._check()
            if self.drain.state in ENDED or (self.drain.state == "away" and not self.drain.return_asked):
                return
            self._let_time_pass()
        raise AssertionError(f"never ends: {self.drain.state} {self.legs}")

    def _act(self) -> None:
        for action in decide(self.drain, "a", self.legs, self.now):
            match action:
                case Begin(leg, source, pid, destination):
                    name = f"{leg}-{source}-{pid}"
                    assert name not in {one.id for one in self.legs}, "begun twice"
                    self.legs.append(Leg(name, leg, source, pid, destination, "running"))
                case Stop(migration_id):
                    self.legs = [
                        replace(one, state="cancelled") if one.id == migration_id else one for one in self.legs
                    ]
                case Enter(state, message):
                    self.drain, self.message = replace(self.drain, state=state), message

    def _let_time_pass(self) -> None:
        self.now += self.numbers.uniform(0.1, 5)
        for index, leg in enumerate(self.legs):
            if leg.state == "running" and self.numbers.random() < 0.4:
                wrong = self.numbers.random() < self.failing
                state = self.numbers.choice(["failed", "refused"]) if wrong else "done"
                hook = state == "done" and self.numbers.random() < self.failing / 4
                self.legs[index] = replace(leg, state=state, moved_pid=leg.pid + 100, hook_failed=hook)

    def _check(self) -> None:
        running = [leg for leg in self.legs if leg.state not in OVER]
        assert len(running) <= max(self.drain.max_parallel, 1)
        counts = Counter(leg.destination for leg in running)
        assert all(count <= self.drain.max_parallel_per_destination for count in counts.values())
        for leg in self.legs:
            if leg.leg == "back":
                assert any(one.leg == "away" and one.state == "done" and one.moved_pid == leg.pid for one in self.legs)


@pytest.mark.parametrize("on_failure", ["skip", "stop", "back"])
@pytest.mark.parametrize("and_back", [False, True])
@pytest.mark.parametrize("cancel", ["", "finish", "abort"])
def test_every_history_ends_and_begins_nothing_twice(
    on_failure: Literal["skip", "stop", "back"], and_back: bool, cancel: str
) -> None:
    for seed in range(60):
        numbers = random.Random(seed)
        drain = Drain("waiting", STEPS, None, None, numbers.randint(1, 3), numbers.randint(1, 2), on_failure, and_back)
        history = History(drain, numbers, failing=numbers.choice([0.0, 0.2, 0.7]))
        if cancel:
            for _ in range(numbers.randint(0, 6)):
                history._act()
                history._let_time_pass()
            history.drain = replace(history.drain, cancel=cancel)
        history.play()
        if history.drain.state == "away" and not cancel:
            history.drain = replace(history.drain, return_asked=True)
            history.play()
        assert history.drain.state in ENDED and history.message
        if not any(leg.went_wrong for leg in history.legs) and not cancel:
            assert history.drain.state == "done"


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


def test_one_failure_stops_the_rest_where_that_is_asked_for() -> None:
    drain = Drain("running", STEPS, max_parallel=1, on_failure="stop")
    [over] = decide(drain, "a", [Leg("x", "away", "a", 1, "b", "failed")], 0.0)
    assert isinstance(over, Enter) and over.state == "failed"


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
