"""POSIX timers: ids with and without the kernel's help, and how each is armed."""

import struct
import time

import pytest

from core.errors import KernelLacks
from core.images.pb.timers_pb2 import PosixTimerEntry
from core.plan.ops import Program
from core.resources.posix_timers import (
    BILLION,
    HIGHEST_ID_BY_TRYING,
    ITIMERSPEC,
    TIMER_ABSTIME,
    plan_all,
    plan_arm,
    plan_create,
)

NOW_NS = 1000 * BILLION


def timer(id: int = 0, *, left_s: int = 5, period_s: int = 0, overrun: int = 0, clock: int = 1) -> PosixTimerEntry:
    return PosixTimerEntry(
        it_id=id, clock_id=clock, si_signo=40, it_sigev_notify=0, sival_ptr=0, overrun=overrun,
        isec=period_s, insec=0, vsec=left_s, vnsec=0,
    )  # fmt: skip


def spec(program: Program) -> tuple[object, ...]:
    """Flags, period and value in seconds."""
    content = program[0].args[2]
    assert isinstance(content, bytes)
    period_s, _, value_s, value_ns = ITIMERSPEC.unpack(content)
    return program[0].args[1], period_s, value_s + value_ns / BILLION


def arm(entry: PosixTimerEntry, *, expired: bool = False, keep_overrun: bool = True) -> Program:
    return plan_arm(entry, NOW_NS, expired=expired, keep_overrun=keep_overrun)


def test_ids_are_chosen_where_the_kernel_lets_us() -> None:
    on, first, second, off = plan_create([timer(3), timer(9)], chosen_ids=True)
    assert (on.name, off.name) == ("prctl", "prctl")
    assert [op.args[2] for op in (first, second)] == [struct.pack("<I", 3), struct.pack("<I", 9)]


def test_ids_are_counted_up_to_where_it_does_not() -> None:
    program = plan_create([timer(2), timer(4)], chosen_ids=False)
    assert [op.may_fail for op in program] == [True, True, False, True, False]


def test_an_id_too_high_to_count_up_to_is_refused_by_name() -> None:
    with pytest.raises(KernelLacks, match=f"timer {HIGHEST_ID_BY_TRYING + 1}"):
        plan_create([timer(HIGHEST_ID_BY_TRYING + 1)], chosen_ids=False)


def test_a_timer_keeps_its_time_left_and_its_period() -> None:
    assert spec(arm(timer(left_s=5, period_s=7))) == (0, 7, 5)


def test_an_unarmed_timer_stays_unarmed() -> None:
    assert arm(timer(left_s=0)) == ()


def test_an_overrun_comes_about_by_expiring_in_the_past() -> None:
    program = arm(timer(left_s=5, period_s=10, overrun=3))
    assert spec(program) == (TIMER_ABSTIME, 10, 1000 + 5 - 4 * 10)
    assert program[1].name == "rt_sigtimedwait"


def test_an_overrun_is_let_go_when_another_signal_like_it_is_queued() -> None:
    assert spec(arm(timer(period_s=10, overrun=3), keep_overrun=False)) == (0, 10, 5)


def test_an_overrun_is_let_go_when_the_clock_is_younger_than_that() -> None:
    assert spec(arm(timer(period_s=1000, overrun=3))) == (0, 1000, 5)


def test_a_timer_whose_signal_is_queued_expires_again_and_stays_in_step() -> None:
    assert spec(arm(timer(left_s=4, period_s=10), expired=True)) == (TIMER_ABSTIME, 10, 1000 + 4 - 10)
    assert spec(arm(timer(left_s=0), expired=True)) == (0, 0, 1 / BILLION)


def test_a_cpu_clock_has_no_past_over_there() -> None:
    assert spec(arm(timer(period_s=10, overrun=3, clock=time.CLOCK_PROCESS_CPUTIME_ID))) == (0, 10, 5)


def test_the_notified_thread_arms_its_own_timer() -> None:
    own = timer(1)
    own.it_sigev_notify, own.notify_thread_id = 4, 12
    assert set(plan_all([timer(0), own], (), (), 11, {})) == {11, 12}
