import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.cli.words import bar, count, downtime_lines, rate, seconds, size
from migrate.events import PhaseSeconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1048575, "1.0 MiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 50, "3072.0 TiB"),
    ],
)
def test_sizes_have_binary_units(value: float, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0008, "0.8 ms"), (0.0234, "23.4 ms"), (0.0999, "100 ms"), (0.4, "400 ms"), (0.9999, "1.00 s"),
        (1.42, "1.42 s"), (9.999, "10.0 s"), (59.99, "1 min 00 s"), (125, "2 min 05 s"),
    ],
)  # fmt: skip
def test_times_have_three_figures(value: float, text: str) -> None:
    assert seconds(value) == text


def test_counts_have_separators_and_plurals() -> None:
    assert (count(1, "page"), count(131072, "page"), rate(1 << 20)) == ("1 page", "131,072 pages", "1.0 MiB/s")


@given(st.floats(0, 1))
def test_a_bar_is_never_longer_than_its_cells_and_shows_whatever_is_not_nothing(share: float) -> None:
    assert len(bar(share)) <= 24
    assert bool(bar(share)) == (share > 0)


def test_the_downtime_is_split_and_parts_of_parts_are_indented() -> None:
    phases = [PhaseSeconds("freeze", 0.001), PhaseSeconds("restore", 0.004), PhaseSeconds("restore: files", 0.002)]
    assert downtime_lines(phases) == [
        "freeze        1.0 ms  ██████",
        "restore       4.0 ms  ████████████████████████",
        "  files       2.0 ms  ████████████",
    ]


def test_no_phases_are_no_lines() -> None:
    assert downtime_lines([]) == []
