"""Maintenance windows: "Sat 02:00-04:00 Europe/Berlin", or an RFC 5545 recurrence with a length. Pure.

Wall-clock times are of the window's own time zone: a window that lies over a change of summer time is as long on the
clock as it says.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dateutil.rrule import rrule, rruleset, rrulestr

from core.errors import UsageError

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WEEKLY = re.compile(
    r"(?:(?P<days>[A-Za-z]{3}(?:[,-][A-Za-z]{3})*|daily)\s+)?(?P<begin>\d{1,2}:\d{2})-(?P<end>\d{1,2}:\d{2})(?:\s+(?P<zone>\S+))?"
)
_RECURRENCE = re.compile(r"(?P<rule>(?:DTSTART.*?[\n;:])?.*RRULE:.*?)/(?P<length>\d+(?:\.\d+)?)(?P<unit>[mh])", re.S)
HINT = (
    'write "Sat 02:00-04:00 Europe/Berlin", "Mon-Fri 22:00-06:00 UTC", '
    'or "DTSTART:20260101T020000Z RRULE:FREQ=WEEKLY/2h"'
)
HORIZON = timedelta(days=800)


@dataclass(frozen=True, slots=True)
class Span:
    """One opening of a window, in UTC."""

    opens: datetime
    closes: datetime

    def holds(self, moment: datetime) -> bool:
        """True while it is open."""
        return self.opens <= moment < self.closes

    @property
    def seconds(self) -> float:
        """How long it is open."""
        return (self.closes - self.opens).total_seconds()


@dataclass(frozen=True, slots=True)
class Weekly:
    """On some weekdays (0: Monday) from one time of day to another; an end before the begin is the next day's."""

    days: frozenset[int]
    begin: time
    end: time
    zone: ZoneInfo

    def next(self, after: datetime) -> Span | None:
        """The span that is open at `after`, or else the first that opens later."""
        first = after.astimezone(self.zone).date() - timedelta(days=1)
        for number in range(16):
            day = first + timedelta(days=number)
            if day.weekday() not in self.days:
                continue
            last = day if self.end > self.begin else day + timedelta(days=1)
            span = Span(
                datetime.combine(day, self.begin, self.zone).astimezone(UTC),
                datetime.combine(last, self.end, self.zone).astimezone(UTC),
            )
            if span.closes > after and span.opens < span.closes:
                return span
        return None


@dataclass(frozen=True, slots=True)
class Recurring:
    """Whenever a recurrence says, for `length`."""

    rule: rrule | rruleset
    length: timedelta

    def next(self, after: datetime) -> Span | None:
        """The span that is open at `after`, or else the first that opens later; None when there is none any more."""
        opens = self.rule.after(after - self.length, inc=False)
        if opens is None or opens > after + HORIZON:
            return None
        opens = opens.astimezone(UTC)
        return Span(opens, opens + self.length)


Window = Weekly | Recurring


def parse_window(text: str) -> Window:
    """The window; UsageError says what was not understood and how it may be written."""
    stripped = text.strip()
    if "RRULE" in stripped.upper():
        return _parse_recurrence(stripped)
    match = _WEEKLY.fullmatch(stripped)
    if match is None:
        raise UsageError(f"window: {text!r} is not understood", hint=HINT)
    try:
        zone = ZoneInfo(match["zone"] or "UTC")
        begin, end = (time.fromisoformat(match[name].zfill(5)) for name in ("begin", "end"))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(f"window: {text!r}: {error}", hint=HINT) from error
    if begin == end:
        raise UsageError(f"window: {text!r} opens and closes at the same time", hint=HINT)
    return Weekly(_parse_days(match["days"], text), begin, end, zone)


def _parse_days(days: str | None, text: str) -> frozenset[int]:
    if days is None or days.lower() == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for part in days.lower().split(","):
        ends = part.split("-")
        if not all(end in DAYS for end in ends) or len(ends) > 2:
            raise UsageError(f"window: {text!r}: {part!r} is not a day", hint=HINT)
        first, last = DAYS.index(ends[0]), DAYS.index(ends[-1])
        found.update((first + step) % 7 for step in range((last - first) % 7 + 1))
    return frozenset(found)


def _parse_recurrence(text: str) -> Recurring:
    match = _RECURRENCE.fullmatch(text)
    if match is None:
        raise UsageError(f"window: {text!r}: a recurrence needs a length, /2h or /90m", hint=HINT)
    rule_text = re.sub(r"\s+(?=RRULE:)", "\n", match["rule"].strip())
    try:
        rule = rrulestr(rule_text, dtstart=None if "DTSTART" in rule_text.upper() else datetime(2020, 1, 1, tzinfo=UTC))
        length = timedelta(seconds=float(match["length"]) * {"m": 60, "h": 3600}[match["unit"]])
        if rule.after(datetime(1990, 1, 1, tzinfo=UTC)) is None:
            raise ValueError("it never happens")
    except (ValueError, TypeError) as error:
        raise UsageError(f"window: {text!r}: {error}", hint=f"DTSTART needs a time zone (…Z). {HINT}") from error
    return Recurring(rule, length)
