"""What a migration tells whoever watches: frozen records, each of which can say itself as one JSON line.

Owns no text layout: the command line and the API decide how a record looks.
"""

import dataclasses
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from core.errors import Blocker


class Phase(StrEnum):
    """The steps a person sees, in their order."""

    CONNECT = "connect"
    PREFLIGHT = "preflight"
    AGREE = "agree"
    ATTACH = "attach"
    PRECOPY = "precopy"
    FREEZE = "freeze"
    RESTORE = "restore"
    HAND_OVER = "hand over"
    RESUME = "resume"
    RELEASE = "release"
    ROLL_BACK = "roll back"
    SETTLE = "settle"


@dataclass(frozen=True, slots=True)
class PhaseSeconds:
    """A part of the downtime, in seconds: freeze, collect, last pages, restore, hand over or resume; "restore: NAME"
    is a part of a part, told by the destination, and does not count again."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Record:
    """Base of all events."""

    def to_json(self) -> str:
        """One line; `event` is the record's name in snake case."""
        return json.dumps({"event": _snake_case(type(self).__name__), **dataclasses.asdict(self)})


@dataclass(frozen=True, slots=True)
class Started(Record):
    """First event: what moves where. `migration_id` is what `migrate resolve` takes."""

    migration_id: str
    pid: int
    destination: str


@dataclass(frozen=True, slots=True)
class PhaseStarted(Record):
    """A step begins, `at_s` after the start."""

    phase: Phase
    at_s: float


@dataclass(frozen=True, slots=True)
class RoundProgress(Record):
    """Inside a round."""

    number: int
    done_pages: int
    total_pages: int
    sent_bytes: int
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class RoundDone(Record):
    """A round landed. `bytes_per_s` counts what was sent, after compression."""

    number: int
    dirty_pages: int
    sent_bytes: int
    seconds: float
    bytes_per_s: float
    expected_downtime_s: float


@dataclass(frozen=True, slots=True)
class Throttled(Record):
    """The target gets `cpu_share` of its CPU from now on (1: all of it)."""

    cpu_share: float


@dataclass(frozen=True, slots=True)
class Notice(Record):
    """Something the user should know that stops nothing."""

    text: str


@dataclass(frozen=True, slots=True)
class Blocked(Record):
    """Refused before anything was touched."""

    blockers: tuple[Blocker, ...]


@dataclass(frozen=True, slots=True)
class Done(Record):
    """The process runs over there. `downtime_s` is the sum of those `phases` that are no part of another."""

    migration_id: str
    downtime_s: float
    phases: tuple[PhaseSeconds, ...]
    total_s: float
    rounds: int
    pages: int
    sent_bytes: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Failed(Record):
    """It did not work, and the source runs on."""

    message: str
    hint: str | None
    kind: str
    stopped_s: float = 0.0  # how long the source stood still before it ran on


@dataclass(frozen=True, slots=True)
class InDoubt(Record):
    """Who is to run cannot be said from here; where both copies stand, and the one command that settles it."""

    migration_id: str
    source: str
    destination: str
    reason: str
    command: str


Event: TypeAlias = (
    Started | PhaseStarted | RoundProgress | RoundDone | Throttled | Notice | Blocked | Done | Failed | InDoubt
)


def _snake_case(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
