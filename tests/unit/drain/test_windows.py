"""When a window opens and closes, as people write it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UsageError
from migrate.drain.windows import parse_window

SATURDAY = datetime(2026, 11, 21, 14, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "opens", "closes"),
    [
        ("Sat 02:00-04:00 Europe/Berlin", "2026-11-28T01:00", "2026-11-28T03:00"),
        ("Sat 15:00-16:00", "2026-11-21T15:00", "2026-11-21T16:00"),
        ("Sat 13:00-16:00 UTC", "2026-11-21T13:00", "2026-11-21T16:00"),  # open already
        ("Mon-Fri 22:00-06:00 UTC", "2026-11-23T22:00", "2026-11-24T06:00"),
        ("Fri,Sat 23:00-01:00", "2026-11-21T23:00", "2026-11-22T01:00"),
        ("daily 01:30-02:00", "2026-11-22T01:30", "2026-11-22T02:00"),
        ("03:00-04:00", "2026-11-22T03:00", "2026-11-22T04:00"),
        ("DTSTART:20260103T020000Z RRULE:FREQ=WEEKLY;BYDAY=SA/2h", "2026-11-28T02:00", "2026-11-28T04:00"),
        ("DTSTART:20260103T133000Z RRULE:FREQ=WEEKLY;BYDAY=SA/90m", "2026-11-21T13:30", "2026-11-21T15:00"),
    ],
)
def test_the_next_opening(text: str, opens: str, closes: str) -> None:
    span = parse_window(text).next(SATURDAY)
    assert span is not None
    assert (f"{span.opens:%Y-%m-%dT%H:%M}", f"{span.closes:%Y-%m-%dT%H:%M}") == (opens, closes)


@pytest.mark.parametrize(
    "text",
    ["", "whenever", "Foo 01:00-02:00", "Sat 25:00-26:00", "Sat 2-4", "Sat 02:00-02:00", "Sat 02:00-04:00 Mars/Phobos",
     "RRULE:FREQ=WEEKLY", "RRULE:FREQ=NEVER/2h"],
)  # fmt: skip
def test_what_is_not_understood_says_how_to_write_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_window(text)
    assert caught.value.hint and "Europe/Berlin" in caught.value.hint


@pytest.mark.parametrize(("day", "hours"), [("2026-03-28", 4), ("2026-10-24", 6), ("2026-11-21", 5)])
def test_summer_time_makes_a_night_longer_or_shorter(day: str, hours: int) -> None:
    span = parse_window("Sat 23:00-04:00 Europe/Berlin").next(datetime.fromisoformat(f"{day}T20:00+00:00"))
    assert span is not None and span.closes - span.opens == timedelta(hours=hours)


@given(moment=st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)))
def test_the_next_opening_never_lies_behind_and_repeats(moment: datetime) -> None:
    window = parse_window("Tue,Sat 23:30-01:00 America/New_York")
    span = window.next(moment)
    assert span is not None and span.closes > moment and span.opens - moment < timedelta(days=8)
    following = window.next(span.closes)
    assert following is not None and following.opens >= span.closes
