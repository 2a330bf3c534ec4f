"""Which clocks are set forward on another host, and by how much."""

from core.images.pb.namespaces_pb2 import TimensEntry
from core.resources.time_namespace import (
    BILLION,
    Clocks,
    behind_ns,
    clocks_of,
    collect,
    decide_offsets,
    parse_timens_offsets,
)

HOUR = 3600 * BILLION
THEN = Clocks(10 * HOUR, 11 * HOUR, 100 * HOUR)


def test_a_host_that_booted_earlier_needs_no_offsets() -> None:
    assert not decide_offsets(THEN, Clocks(12 * HOUR, 12 * HOUR, 101 * HOUR))


def test_the_time_that_has_passed_counts() -> None:
    assert decide_offsets(THEN, Clocks(1 * HOUR, 1 * HOUR, 102 * HOUR)) == Clocks(11 * HOUR, 12 * HOUR)


def test_a_wall_clock_that_went_back_or_is_not_told_counts_as_no_time() -> None:
    for wall in (THEN.realtime_ns, 0):
        then = Clocks(THEN.monotonic_ns, THEN.boottime_ns, wall)
        assert decide_offsets(then, Clocks(1 * HOUR, 1 * HOUR, 90 * HOUR)) == Clocks(9 * HOUR, 10 * HOUR)


def test_each_clock_is_decided_by_itself() -> None:
    assert decide_offsets(THEN, Clocks(10 * HOUR, 2 * HOUR, 100 * HOUR)) == Clocks(0, 9 * HOUR)


def test_how_far_a_clock_would_go_back() -> None:
    assert behind_ns(THEN, Clocks(9 * HOUR, 9 * HOUR), Clocks(HOUR, 2 * HOUR)) == 0
    assert behind_ns(THEN, Clocks(9 * HOUR, 9 * HOUR), Clocks(HOUR, HOUR)) == HOUR


def test_offsets_are_written_as_the_kernel_reads_them() -> None:
    offsets = Clocks(5 * BILLION + 7, 2 * BILLION)
    assert offsets.as_timens_offsets() == "monotonic 5 7\nboottime 2 0\n"
    assert parse_timens_offsets("monotonic           5         7\nboottime            2         0\n") == offsets
    assert Clocks().as_timens_offsets() == ""


def test_a_program_in_a_time_namespace_is_told_with_its_own_clocks() -> None:
    entry = collect(Clocks(10, 20, 30), Clocks(100, 200), Clocks(1, 2))
    assert clocks_of(entry) == Clocks(109, 218, 30)
    assert clocks_of(TimensEntry.FromString(entry.SerializeToString())) == Clocks(109, 218, 30)
