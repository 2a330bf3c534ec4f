"""How a timerfd is armed over there, by what it was armed to here."""

import time

from core.images.pb.descriptors_pb2 import FownEntry, TimerfdEntry
from core.resources.timerfd import BILLION, TFD_TIMER_ABSTIME, Arming, decide_arming

NOW = 1000 * BILLION


def timer(clock: int, left_s: int, *, due_s: int = 0, period_s: int = 0, ticks: int = 0) -> TimerfdEntry:
    return TimerfdEntry(
        id=1, flags=0, fown=FownEntry(uid=0, euid=0, signum=0, pid_type=0, pid=0), clockid=clock, ticks=ticks,
        settime_flags=TFD_TIMER_ABSTIME if due_s else 0, vsec=left_s, vnsec=0, isec=period_s, insec=0,
        due_ns=due_s * BILLION,
    )  # fmt: skip


def test_a_relative_timer_keeps_its_time_left() -> None:
    assert decide_arming(timer(time.CLOCK_REALTIME, 5), NOW) == Arming(0, 5 * BILLION, 0, 0)


def test_a_date_stays_a_date() -> None:
    arming = decide_arming(timer(time.CLOCK_REALTIME, 5, due_s=900), NOW)
    assert arming == Arming(TFD_TIMER_ABSTIME, 900 * BILLION, 0, 0)


def test_what_passed_meanwhile_counts_for_an_absolute_time_of_the_monotonic_clock() -> None:
    assert decide_arming(timer(time.CLOCK_MONOTONIC, 50, due_s=1020), NOW).value_ns == 20 * BILLION
    assert decide_arming(timer(time.CLOCK_MONOTONIC, 50, due_s=900), NOW).value_ns == 1


def test_missed_periods_are_expirations_to_be_read() -> None:
    arming = decide_arming(timer(time.CLOCK_MONOTONIC, 5, due_s=975, period_s=10, ticks=1), NOW)
    assert arming == Arming(0, 5 * BILLION, 10 * BILLION, 1 + 3)


def test_an_unarmed_timer_stays_unarmed() -> None:
    assert decide_arming(timer(time.CLOCK_MONOTONIC, 0, ticks=2), NOW) == Arming(0, 0, 0, 2)
    assert decide_arming(timer(time.CLOCK_MONOTONIC, 0, period_s=3), NOW) == Arming(0, 0, 3 * BILLION, 0)


def test_a_period_that_has_just_ended_is_followed_by_a_whole_one() -> None:
    assert decide_arming(timer(time.CLOCK_MONOTONIC, 0, period_s=3, ticks=1), NOW).value_ns == 3 * BILLION
