"""Queued signals: what is collected of a queue, what is queued again, and by which signal a stem reports meanwhile."""

import signal
import struct

import pytest

from core.errors import ImageError
from core.images.pb.signals_pb2 import SiginfoEntry, SignalQueueEntry
from core.resources.signals import (
    SI_TIMER,
    collect_queue,
    expired_timers,
    free_signal,
    is_stopping,
    numbers_of,
    plan_queue,
)


def siginfo(number: int, code: int = 0, timer: int = 0) -> bytes:
    return struct.pack("<iiiii", number, 0, code, 0, timer).ljust(128, b"\0")


def queue(*contents: bytes) -> SignalQueueEntry:
    return SignalQueueEntry(signals=[SiginfoEntry(siginfo=content) for content in contents])


def test_signals_stay_in_order() -> None:
    contents = [siginfo(40, -1, 1), siginfo(10), siginfo(40, -1, 2)]
    assert [entry.siginfo for entry in collect_queue(contents, 1 << 39 | 1 << 9).signals] == contents


def test_a_pending_signal_without_siginfo_is_queued_too() -> None:
    found = collect_queue([siginfo(10)], 1 << 9 | 1 << 14)
    assert numbers_of([found]) == {10, 15}
    assert found.signals[1].siginfo == siginfo(15)


def test_the_process_queue_and_a_threads_queue_are_filled_by_different_calls() -> None:
    (shared,) = plan_queue(queue(siginfo(10)), 7)
    (own,) = plan_queue(queue(siginfo(10)), 7, 8)
    assert (shared.name, shared.args[:2]) == ("rt_sigqueueinfo", (7, 10))
    assert (own.name, own.args[:3]) == ("rt_tgsigqueueinfo", (7, 8, 10))


def test_a_timers_signal_is_left_to_the_timer() -> None:
    content = queue(siginfo(34, SI_TIMER, 5), siginfo(34, SI_TIMER, 6), siginfo(34, -1))
    assert expired_timers(content) == {5, 6}
    assert len(plan_queue(content, 7, timers=[5])) == 2


def test_a_stop_on_its_way_is_not_queued() -> None:
    content = queue(siginfo(signal.SIGSTOP))
    assert is_stopping([content]) and plan_queue(content, 7) == ()


def test_a_stem_reports_by_a_signal_that_is_not_queued() -> None:
    assert free_signal(()) == signal.SIGURG
    assert free_signal({signal.SIGURG, signal.SIGWINCH}) == signal.SIGPWR
    with pytest.raises(ImageError, match="none is left"):
        free_signal(range(1, 65))
