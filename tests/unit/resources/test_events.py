import ctypes
import os
import select
import signal
import struct
import time
from dataclasses import replace

import pytest

from core.images import kinds
from core.images.pb.files_pb2 import EVENTPOLL
from core.kernel.calls import address_of, syscall
from core.resources import context, eventfd, file_table, timerfd
from tests.unit.resources.local_executor import READER, LocalTask, restored_task, source_task

BILLION = 1_000_000_000
CLOCK_MONOTONIC, CLOCK_REALTIME = 1, 0
ABSTIME, CANCEL_ON_SET = 1, 2


def make_timer(clock: int, flags: int, value_ns: int, interval_ns: int = 0, mode: int = 0) -> int:
    fd = syscall("timerfd_create", clock, mode)
    spec = struct.pack("<qqqq", *divmod(interval_ns, BILLION), *divmod(value_ns, BILLION))
    syscall("timerfd_settime", fd, flags, address_of(spec), 0)
    return fd


def timer_left_ns(task: LocalTask, fd: int) -> int:
    timer = task.info(fd).timerfd
    assert timer is not None
    return timer.it_value_ns


@pytest.mark.parametrize("count", [0, 1, 5, (1 << 32) + 7, (1 << 64) - 2])
@pytest.mark.parametrize("mode", [0, os.EFD_SEMAPHORE, os.EFD_NONBLOCK | os.EFD_SEMAPHORE])
def test_eventfd_keeps_counter_and_mode(count: int, mode: int) -> None:
    def setup() -> None:
        fd = os.eventfd(0, mode)
        if count:
            os.eventfd_write(fd, count)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert restored.info(0).eventfd_count == count
        before, after = source.info(0), restored.info(0)
        assert (after.flags, after.eventfd_semaphore) == (before.flags, before.eventfd_semaphore)
        if count:
            ours = restored.duplicate(0)
            assert os.eventfd_read(ours) == (1 if mode & os.EFD_SEMAPHORE else count)
            os.close(ours)


@pytest.mark.parametrize("count", [0, 1, 2, 9, (1 << 64) - 3])
@pytest.mark.parametrize("mode", [0, os.EFD_SEMAPHORE])
def test_an_old_kernel_is_asked_whether_it_is_a_semaphore_without_trace(count: int, mode: int) -> None:
    fd = os.eventfd(0, mode)
    try:
        if count:
            os.eventfd_write(fd, count)
        if count < (1 << 64) - 4:
            assert eventfd.probe_semaphore(fd, count) == bool(mode)
        with open(f"/proc/self/fdinfo/{fd}") as info:
            assert f"eventfd-count: {count:16x}" in info.read()
    finally:
        os.close(fd)


def test_signalfd_keeps_its_mask() -> None:
    mask = 1 << (signal.SIGUSR1 - 1) | 1 << (signal.SIGRTMAX - 1)

    def setup() -> None:
        wanted = struct.pack("<Q", mask)
        syscall("signalfd4", -1, address_of(wanted), 8, os.O_NONBLOCK)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert restored.info(0).signalfd_mask == mask
        assert restored.info(0).flags == source.info(0).flags


@pytest.mark.parametrize(("clock", "flags"), [(CLOCK_MONOTONIC, 0), (CLOCK_MONOTONIC, ABSTIME), (CLOCK_REALTIME, 0)])
def test_an_armed_timer_goes_on_from_the_time_left(clock: int, flags: int) -> None:
    hour = 3600 * BILLION

    def setup() -> None:
        now = time.clock_gettime_ns(clock) if flags else 0
        make_timer(clock, flags, now + hour, 7 * BILLION + 5, os.O_NONBLOCK)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert hour - 30 * BILLION < timer_left_ns(restored, 0) <= hour
        timer, before = restored.info(0).timerfd, source.info(0).timerfd
        assert timer and before
        assert (timer.clockid, timer.it_interval_ns, timer.ticks) == (before.clockid, 7 * BILLION + 5, 0)
        assert restored.info(0).flags == source.info(0).flags


def test_a_timer_that_expired_after_we_asked_is_written_down_as_armed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_settle_timer", lambda fd: None)

    def setup() -> None:
        fd = make_timer(CLOCK_MONOTONIC, 0, 1, BILLION // 5)
        select.select([fd], [], [])
        make_timer(CLOCK_MONOTONIC, 0, 0, 7 * BILLION)  # with a period, but not armed

    with source_task(setup) as source:
        expired, unarmed = (entry.tfd for entry in source.collect().all(kinds.FILES))
        assert (expired.ticks, expired.vsec, expired.vnsec) == (1, 0, BILLION // 5)
        assert (unarmed.isec, unarmed.vsec, unarmed.vnsec) == (7, 0, 0)


def test_an_armed_timer_is_never_taken_for_a_disarmed_one() -> None:
    """It counts on the CPU where it was armed: looked at from another one it is due for some microseconds before."""
    cpus = os.sched_getaffinity(0)
    period_ns = BILLION // 1000
    try:
        for phase in range(1000):
            os.sched_setaffinity(0, {min(cpus)})
            due_ns = time.monotonic_ns() + period_ns
            fd = make_timer(CLOCK_MONOTONIC, 0, period_ns, period_ns)
            os.sched_setaffinity(0, {max(cpus)})
            while time.monotonic_ns() < due_ns - 50_000 + phase * 100:
                pass
            timer = context._settled_timer(os.getpid(), fd, READER, fd).timerfd
            os.close(fd)
            assert timer and timerfd.time_left_ns(timer.it_value_ns, timer.it_interval_ns, timer.ticks)
    finally:
        os.sched_setaffinity(0, cpus)


def test_a_wall_clock_alarm_stays_one() -> None:
    def setup() -> None:
        later = time.clock_gettime_ns(time.CLOCK_REALTIME) + 3600 * BILLION
        make_timer(CLOCK_REALTIME, ABSTIME | CANCEL_ON_SET, later)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        timer = restored.info(0).timerfd
        assert timer
        assert timer.settime_flags == ABSTIME | CANCEL_ON_SET
        assert 3570 * BILLION < timer.it_value_ns <= 3600 * BILLION


def test_expirations_not_read_yet_are_kept() -> None:
    def setup() -> None:
        once = make_timer(CLOCK_MONOTONIC, 0, 1)
        many = make_timer(CLOCK_MONOTONIC, 0, 1, 3600 * BILLION)
        for fd in (once, many):
            select.select([fd], [], [])

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        for fd in (0, 1):
            ours = restored.duplicate(fd)
            assert os.read(ours, 8) == struct.pack("<Q", 1)
            os.close(ours)
        assert timer_left_ns(restored, 0) == 0
        assert timer_left_ns(restored, 1) > 3500 * BILLION


def test_a_timer_that_is_not_armed_stays_so() -> None:
    def setup() -> None:
        syscall("timerfd_create", CLOCK_MONOTONIC, 0)

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert timer_left_ns(restored, 0) == 0


def epoll_events(task: LocalTask, fd: int) -> dict[int, tuple[int, int]]:
    return {target.tfd: (target.events, target.data) for target in task.info(fd).epoll_targets}


def add(epoll: int, fd: int, events: int, data: int) -> None:
    event = struct.pack("<IQ", events, data)
    syscall("epoll_ctl", epoll, 1, fd, address_of(event))


def test_epoll_watches_the_same_descriptors_also_higher_ones_and_other_epolls() -> None:
    def setup() -> object:
        outer = select.epoll()
        inner = select.epoll()
        os.pipe()
        event = os.eventfd(3)
        add(inner.fileno(), event, select.EPOLLIN | select.EPOLLET, 0xDEAD_BEEF_0000_0001)
        add(inner.fileno(), 2, select.EPOLLIN | select.EPOLLONESHOT, (1 << 64) - 1)
        add(outer.fileno(), inner.fileno(), select.EPOLLIN, 5)
        return outer, inner

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        for fd in (0, 1):
            assert epoll_events(restored, fd) == epoll_events(source, fd)
        assert [len(epoll_events(restored, fd)) for fd in (0, 1)] == [1, 2]
        ours = restored.duplicate(1)
        events = (ctypes.c_char * 24)()
        assert syscall("epoll_wait", ours, ctypes.addressof(events), 2, 0) == 1
        assert struct.unpack("<IQ", bytes(events)[:12]) == (select.EPOLLIN, 0xDEAD_BEEF_0000_0001)
        os.close(ours)


@pytest.mark.parametrize("reused", [False, True])
def test_a_watched_file_whose_number_is_gone_is_found_by_another_or_refused(reused: bool) -> None:
    def setup() -> object:
        epoll = select.epoll()
        event = os.eventfd(0)
        add(epoll.fileno(), event, select.EPOLLIN, 1)
        os.dup2(event, 9)
        os.close(event)
        if reused:
            assert os.eventfd(0) == event
        return epoll

    with source_task(setup) as source, source.table() as table:
        assert file_table.refuse(table) == []
        without = replace(table, files=tuple(file for file in table.files if file.fd != 9))
        (blocker,) = file_table.refuse(without)
        assert blocker.code == "fd-epoll-stale"
        assert "registered as fd 1" in blocker.reason
        (entry,) = (entry for entry in source.collect().all(kinds.FILES) if entry.type == EVENTPOLL)
        assert [(target.tfd, target.found_as) for target in entry.epfd.tfd] == [(1, 9)]


def test_what_a_running_task_has_taken_out_of_the_set_meanwhile_is_no_reason() -> None:
    """Its set was read before, its descriptors after."""

    def setup() -> object:
        epoll = select.epoll()
        epoll.register(os.eventfd(0), select.EPOLLIN)
        return epoll

    with source_task(setup) as source, source.table() as table:
        watching = next(file for file in table.files if file.info.epoll_targets)
        before = (*watching.info.epoll_targets, replace(watching.info.epoll_targets[0], tfd=50))
        as_it_was = replace(watching, info=replace(watching.info, epoll_targets=before))
        assert file_table.refuse(table, [as_it_was]) == []


def test_a_number_registered_twice_is_told_apart() -> None:
    """The first file of number 1 lives on as fd 9, so both are watched under the number 1."""

    def setup() -> object:
        epoll = select.epoll()
        event = os.eventfd(0)
        add(epoll.fileno(), event, select.EPOLLIN, 1)
        os.dup2(event, 9)
        os.dup2(os.eventfd(0), event)
        add(epoll.fileno(), event, select.EPOLLIN, 2)
        return epoll

    with source_task(setup) as source, source.table() as table:
        assert [target.tfd for target in table.files[0].info.epoll_targets] == [1, 1]
        images = source.collect()
        (entry,) = (entry for entry in images.all(kinds.FILES) if entry.type == EVENTPOLL)
        assert sorted((target.tfd, target.found_as) for target in entry.epfd.tfd) == [(1, 0), (1, 9)]
    with restored_task(images) as restored:
        assert [target.tfd for target in restored.info(0).epoll_targets] == [1, 1]
