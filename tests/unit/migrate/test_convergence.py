"""decide() by value."""

from dataclasses import replace

import pytest

from migrate.convergence import (
    PAGE_BYTES,
    Again,
    Freeze,
    FreezeCost,
    GiveUp,
    Goal,
    RoundRecord,
    Throttle,
    decide,
    expected_downtime_s,
)


def rounds(*dirty: int, took_s: float = 0.5, share: float = 1.0, ended_s: float | None = None) -> list[RoundRecord]:
    """Rounds 1 s apart that each took `took_s`."""
    return [
        RoundRecord(n, pages, pages * PAGE_BYTES, took_s, None if n == 1 else 1.0, ended_s or float(n), share)
        for n, pages in enumerate(dirty, 1)
    ]


def test_the_estimate_is_copy_plus_restore_plus_round_trip() -> None:
    last = [RoundRecord(1, 1000, 0, 2.0, None, 2.0), RoundRecord(2, 100, 0, 0.2, 1.0, 3.0)]
    # 500 pages per second, by the round that carried most
    assert expected_downtime_s(last, Goal(freeze_cost_s=0.02, round_trip_s=0.01)) == pytest.approx(0.23)


def comparing(*seconds: float) -> list[RoundRecord]:
    """Rounds that have nothing to copy."""
    return [replace(one, compared_s=took) for one, took in zip(rounds(*[0] * len(seconds)), seconds, strict=True)]


def test_what_is_compared_in_each_round_is_compared_in_the_freeze() -> None:
    goal = Goal(max_downtime_s=0.3, explicit=True, freeze_cost_s=0.02)
    assert expected_downtime_s(comparing(0, 2.0), goal) == pytest.approx(2.02)
    assert isinstance(decide(comparing(0, 2.0), goal), Again)
    assert isinstance(decide(comparing(0, 2.0, 2.0, 0.1), goal), Freeze)
    decision = decide(comparing(0, 2.0, 2.0, 2.0), goal)
    assert isinstance(decision, GiveUp) and decision.hint == "allow at least --max-downtime 2.1s"
    assert decide(comparing(0, 2.0, 2.0, 2.0), replace(goal, explicit=False)) == Freeze(pytest.approx(2.02))


def test_a_round_longer_than_the_scans_were_apart_leaves_more_behind() -> None:
    slow = [RoundRecord(1, 1000, 0, 10.0, None, 10.0), RoundRecord(2, 1000, 0, 10.0, 5.0, 20.0)]
    assert expected_downtime_s(slow, Goal()) == pytest.approx(20.0)


def test_the_freeze_cost_grows_with_tasks_threads_descriptors_and_mappings() -> None:
    cost = FreezeCost(base_s=1, task_s=10, thread_s=0.1, fd_s=0.01, vma_s=0.001)
    assert cost.seconds(tasks=1, threads=2, fds=3, vmas=4) == pytest.approx(11.234)


def test_what_no_round_makes_less_is_waited_for_as_long_as_the_copying_matters() -> None:
    crowd = Goal(max_downtime_s=0.3, freeze_cost_s=1.0)
    assert isinstance(decide(rounds(10_000, 9_000), crowd), Again)
    assert decide(rounds(10_000, 0), crowd) == Freeze(pytest.approx(1.0))
    assert isinstance(decide(rounds(10_000, 0), replace(crowd, deadline_s=100, may_throttle=True)), Freeze)


def test_a_goal_that_no_round_can_reach_is_given_up_at_once() -> None:
    goal = Goal(max_downtime_s=0.3, explicit=True, may_throttle=True, deadline_s=100, freeze_cost_s=1.0)
    decision = decide(rounds(10_000), goal)
    assert isinstance(decision, GiveUp) and "more with nothing left to copy" in decision.reason
    assert decision.hint == "allow at least --max-downtime 1.1s"


def test_an_estimate_within_the_goal_freezes() -> None:
    assert decide(rounds(1000, 100), Goal(max_downtime_s=0.3)) == Freeze(pytest.approx(0.05))


def test_an_estimate_above_the_goal_goes_round_again_at_the_pace_of_a_second() -> None:
    assert decide(rounds(1000, 900, took_s=0.4), Goal(max_downtime_s=0.1)) == Again(
        pytest.approx(0.6), pytest.approx(0.36)
    )


def test_a_round_that_took_longer_than_a_second_is_followed_at_once() -> None:
    decision = decide(rounds(1000, took_s=5.0), Goal(max_downtime_s=0.1))
    assert isinstance(decision, Again) and decision.wait_s == 0


STUCK = (1000, 1000, 1000, 1000)


def test_a_stuck_set_freezes_anyway_when_no_goal_was_asked_for() -> None:
    assert decide(rounds(*STUCK), Goal(max_downtime_s=0.3)) == Freeze(pytest.approx(0.5))


def test_a_stuck_set_gives_up_when_the_goal_was_explicit_and_names_the_prediction() -> None:
    decision = decide(rounds(*STUCK), Goal(max_downtime_s=0.3, explicit=True))
    assert isinstance(decision, GiveUp)
    assert "0.3 s" in decision.reason and "0.50 s" in decision.reason and "no longer shrink" in decision.reason


def test_three_rounds_that_do_not_shrink_are_not_yet_a_verdict() -> None:
    assert isinstance(decide(rounds(1000, 1000, 1000), Goal(explicit=True)), Again)


def test_a_stuck_set_is_throttled_in_steps_where_allowed() -> None:
    goal = Goal(max_downtime_s=0.3, explicit=True, may_throttle=True)
    assert decide(rounds(*STUCK), goal) == Throttle(0.5, pytest.approx(0.5))
    slowed = [*rounds(*STUCK), *rounds(*STUCK, share=0.5)]
    assert isinstance(decide(slowed[:6], goal), Again)
    assert decide(slowed, goal) == Throttle(0.25, pytest.approx(0.5))


def test_a_stuck_set_at_the_last_throttle_step_gives_up() -> None:
    goal = Goal(max_downtime_s=0.3, explicit=True, may_throttle=True)
    assert isinstance(decide(rounds(*STUCK, share=0.1), goal), GiveUp)


def test_a_goal_can_lose_its_throttle() -> None:
    goal = Goal(max_downtime_s=0.3, explicit=True, may_throttle=True).without_throttle()
    assert isinstance(decide(rounds(*STUCK), goal), GiveUp)


def test_a_stuck_set_is_given_time_until_the_deadline() -> None:
    goal = Goal(max_downtime_s=0.3, explicit=True, deadline_s=60)
    assert isinstance(decide(rounds(*STUCK), goal), Again)
    decision = decide(rounds(*STUCK, ended_s=61), goal)
    assert isinstance(decision, GiveUp) and "deadline of 60 s" in decision.reason
    assert "--deadline" in decision.hint


def test_a_set_within_the_goal_freezes_even_after_the_deadline() -> None:
    assert isinstance(decide(rounds(1000, 10, ended_s=61), Goal(deadline_s=60)), Freeze)


def test_an_idle_target_freezes_after_its_second_round() -> None:
    assert decide(rounds(100_000, 0), Goal(freeze_cost_s=0.02)) == Freeze(0.02)


def test_a_set_that_shrinks_for_ever_slowly_is_stuck_after_thirty_rounds() -> None:
    slowly = [int(10_000 * 0.89**n) + 5000 for n in range(30)]
    assert isinstance(decide(rounds(*slowly), Goal(max_downtime_s=0.01, explicit=True)), GiveUp)
