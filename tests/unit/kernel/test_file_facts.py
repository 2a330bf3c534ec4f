"""Facts about files are tried with files of ours, and what they tell is not asked."""

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from core.errors import KernelLacks
from core.kernel.calls import address_of, pidfd_open, syscall
from core.kernel.descriptors import Hints, Questions, ints, is_error, longs, look
from core.kernel.file_facts import PLACES, FileFacts, find_places, find_unset_timers, open_file_facts
from core.kernel.file_trials import try_facts
from tests.requires import require_root

NOT_TRIED = ("fd", "ticks", "expired")  # of timers that are told by when they expire


def setup_module() -> None:
    require_root()


@contextmanager
def facts_of_us() -> Iterator[tuple[FileFacts, int]]:
    """With what they take for us."""
    with ExitStack() as stack:
        try:
            facts = stack.enter_context(open_file_facts())
        except KernelLacks as error:
            pytest.skip(str(error))
        task = facts.open_task(os.getpid())
        stack.callback(os.close, task)
        yield facts, task


def test_they_mean_what_is_thought_here_and_nothing_of_the_trial_is_left() -> None:
    with facts_of_us() as (facts, _):
        before = os.listdir("/proc/self/fd")
        try_facts(facts)
        assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize("field", [name for name in PLACES if name not in NOT_TRIED])
@pytest.mark.parametrize("value", [0, 2])
def test_a_field_that_tells_nothing_is_found_out(field: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    read = FileFacts.read

    def without(self: FileFacts, task: int) -> Any:
        found = read(self, task)
        for one in found:
            setattr(one, field, value)
        return found

    with facts_of_us() as (facts, _):
        monkeypatch.setattr(FileFacts, "read", without)
        with pytest.raises(KernelLacks):
            try_facts(facts)


def test_what_they_tell_is_not_asked() -> None:
    """Seen by asking a process that does not exist."""
    with facts_of_us() as (facts, task), ExitStack() as stack:
        operations, pidfd = try_facts(facts), pidfd_open(os.getpid())
        stack.callback(os.close, pidfd)
        fds = sorted((os.eventfd(5), os.memfd_create("told"), *os.pipe(), os.open("/dev/null", os.O_RDWR)))
        for fd in fds:
            stack.callback(os.close, fd)
        records = [record or b"" for record in look(os.getpid(), pidfd, fds, Questions(()))]
        starts = [sum(map(len, records[:place])) for place in range(len(records))]
        now = facts.read(task)
        places = find_places(now, ints(fds))
        hints = Hints(b"".join(records), longs(starts), facts=now, fact_places=places, operations=operations)
        found = look(os.getpid(), -1, fds, Questions(()), hints)
        asked = [fd for fd, record in zip(fds, found, strict=True) if record is not None]
        assert [os.readlink(f"/proc/self/fd/{fd}") for fd in asked] == ["/dev/null"]
        assert all(record is None or is_error(record) for record in found)
        assert list(find_places(now, ints([*fds, 100_000])))[-1] == -1


def test_timers_that_are_not_armed_are_told() -> None:
    with facts_of_us() as (facts, task), ExitStack() as stack:
        operations = try_facts(facts)
        timers = sorted(syscall("timerfd_create", 1, 0) for _ in range(3))
        for fd in (*timers, count := os.eventfd(0)):
            stack.callback(os.close, fd)
        assert find_unset_timers(facts.read(task), operations) == timers and count not in timers
        for fd, (seconds, nanoseconds) in zip(timers, ((1000, 0), (0, 1)), strict=False):
            spec = bytearray(struct.pack("<4q", 0, 0, seconds, nanoseconds))
            syscall("timerfd_settime", fd, 0, address_of(spec), 0)
        assert find_unset_timers(facts.read(task), operations) == timers[2:]
        os.read(timers[1], 8)  # its time is over, and nobody set it since
        assert find_unset_timers(facts.read(task), operations) == timers[2:]
