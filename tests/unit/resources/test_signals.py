"""Signal actions, stacks, timers and queues as ops."""

import struct

from core.images.pb.signals_pb2 import SaEntry, SiginfoEntry, SignalQueueEntry, ThreadSasEntry
from core.images.pb.timers_pb2 import ItimerEntry, TaskTimersEntry
from core.resources import signals


def default() -> list[SaEntry]:
    return [SaEntry(sigaction=0, flags=0, restorer=0, mask=0) for _ in signals.SIGNALS]


def test_every_signal_but_kill_and_stop_has_an_action() -> None:
    assert len(signals.SIGNALS) == 62
    assert not {9, 19} & set(signals.SIGNALS)
    assert signals.SIGNALS[-1] == 64


def test_only_actions_that_differ_from_the_default_are_set_each_for_its_own_signal() -> None:
    entries = default()
    for index, number in enumerate(signals.SIGNALS):
        if number in (1, 10, 20, 64):
            entries[index] = SaEntry(sigaction=0x1000 + number, flags=4, restorer=5, mask=6)
    plan = signals.plan_actions(entries)
    assert [op.args[0] for op in plan] == [1, 10, 20, 64]
    assert all(
        op.args[1] == struct.pack("<4Q", 0x1000 + op.args[0], 4, 5, 6) for op in plan if isinstance(op.args[0], int)
    )


def test_an_alternate_stack_is_set_only_when_there_is_one() -> None:
    assert signals.plan_stack(ThreadSasEntry(ss_sp=0, ss_size=0, ss_flags=2)) == ()
    (op,) = signals.plan_stack(ThreadSasEntry(ss_sp=0x5000, ss_size=0x2000, ss_flags=0))
    assert op.args[0] == struct.pack("<QI4xQ", 0x5000, 0, 0x2000)


def test_only_running_timers_are_armed_with_what_they_had_left() -> None:
    idle, running = ItimerEntry(isec=1, iusec=0, vsec=0, vusec=0), ItimerEntry(isec=1, iusec=2, vsec=0, vusec=4)
    plan = signals.plan_timers(TaskTimersEntry(real=idle, virt=running, prof=idle))
    assert [op.args[:2] for op in plan] == [(1, struct.pack("<4q", 1, 2, 0, 4))]


def test_queued_signals_keep_their_order_and_content_and_go_where_they_were() -> None:
    contents = [number.to_bytes(4, "little") + bytes([number]) * 124 for number in (34, 10, 34)]
    queue = SignalQueueEntry(signals=[SiginfoEntry(siginfo=content) for content in contents])
    process = signals.plan_queue(queue, 812)
    assert [(op.name, op.args) for op in process] == [
        ("rt_sigqueueinfo", (812, number, content)) for number, content in zip((34, 10, 34), contents, strict=True)
    ]
    thread = signals.plan_queue(queue, 812, 815)
    assert [op.args[:3] for op in thread] == [(812, 815, 34), (812, 815, 10), (812, 815, 34)]


def test_signals_have_names() -> None:
    assert [signals.signal_name(number) for number in (15, 33)] == ["SIGTERM", "SIG33"]
