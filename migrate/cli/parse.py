"""What people write for times, rates, sizes and PIDs, as numbers. Pure; UsageError says what may be written instead."""

import re

from core.errors import UsageError
from migrate.journal import ID_PATTERN

_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>us|ms|s|min|m|h)")
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_RATE = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<prefix>[kKmMgGtT]?)(?P<binary>i?)(?P<unit>bits?|B)(?:/s|ps)?"
)
_SIZE = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<prefix>[kKmMgGtT]?)(?:iB|B)?")
_EXPONENT = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def parse_duration(option: str, text: str) -> float:
    """Seconds, more than 0: 200ms, 1.5s, 10m, 2h. A unit is needed: nobody agrees on which one a bare number has."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match["number"]) * _SECONDS[match["unit"]] if match else 0.0
    if seconds <= 0:
        raise _wrong(option, text, "is not a time", "write a number with its unit: 200ms, 1.5s, 10m, 2h")
    return seconds


def parse_rate(option: str, text: str) -> int:
    """Bytes per second from bits (1gbit) or bytes (100MB, 100MiB). Small "b" is refused: it could mean either."""
    match = _RATE.fullmatch(text.strip())
    rate = 0
    if match:
        base = 1024 if match["binary"] else 1000
        units = float(match["number"]) * base ** _EXPONENT[match["prefix"].lower()]
        rate = int(units) if match["unit"] == "B" else int(units / 8)
    if rate <= 0:
        raise _wrong(
            option, text, "is not a rate", "write bits per second as 1gbit or 100mbit, bytes as 100MB or 64MiB"
        )
    return rate


def parse_size(option: str, text: str) -> int:
    """Bytes; K, M, G, T are powers of 1024, as criu(8) has them."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise _wrong(option, text, "is not a size", "write bytes, or a number with K, M or G: 512K, 1M")
    return int(float(match["number"]) * 1024 ** _EXPONENT[match["prefix"].lower()])


def parse_ghost_limit(text: str | None) -> int | None:
    """--ghost-limit, none without."""
    return None if text is None else parse_size("--ghost-limit", text)


def parse_pid(text: str) -> int:
    """A process id."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 1 << 31):
        raise _wrong("PID", text, "is not a process id", "write a number: migrate PID [user@]host")
    return int(text)


def parse_id(option: str, text: str) -> str:
    """A migration's id."""
    if not ID_PATTERN.match(text):
        raise _wrong(option, text[:80], "is not a migration's id", "ids are letters, digits, - and _, 63 at most")
    return text


def parse_count(option: str, text: str, at_most: int) -> int:
    """A number from 1 on."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= at_most):
        raise _wrong(option, text, f"is not a number from 1 to {at_most}", None)
    return int(text)


def parse_choice(option: str, text: str, choices: tuple[str, ...]) -> str:
    """One of `choices`."""
    if text not in choices:
        raise _wrong(option, text, "is not one of its values", f"write {', '.join(choices[:-1])} or {choices[-1]}")
    return text


def _wrong(option: str, text: str, reason: str, hint: str | None) -> UsageError:
    return UsageError(f"{option}: {text!r} {reason}", hint=hint)
