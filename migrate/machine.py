"""The state machine of one migration and of its copy at the destination: two tables, no I/O, no clock.

Owns which state may follow which; `python -m migrate.machine` prints the diagram of ARCHITECTURE.md from the tables.
The rule they exist for: ROLLED_BACK cannot be reached once HANDING_OVER was, and a copy that was told to resume
cannot be aborted.
"""

from collections.abc import Mapping
from enum import StrEnum

from migrate.errors import OutOfOrder


class State(StrEnum):
    """Where a migration stands, as the source's journal says."""

    IDLE = "IDLE"
    AGREED = "AGREED"
    PRECOPY = "PRECOPY"
    FROZEN = "FROZEN"
    HANDING_OVER = "HANDING_OVER"
    HANDED_OVER = "HANDED_OVER"
    DONE = "DONE"
    ROLLED_BACK = "ROLLED_BACK"
    IN_DOUBT = "IN_DOUBT"
    KEPT_SOURCE = "KEPT_SOURCE"


class Event(StrEnum):
    """What happened to the migration."""

    AGREED = "destination agreed"
    ATTACHED = "source attached"
    ROUND_LANDED = "round landed"
    FROZE = "source frozen"
    HANDED_OVER = "Ready heard, freeze held by the cgroup"
    RESUMED = "destination journalled that it resumed"
    RELEASED = "source tree killed"
    FAILED = "failed"
    OPERATOR_KEPT_SOURCE = "operator keeps the source"
    OPERATOR_KEPT_DESTINATION = "operator keeps the destination"


class CopyState(StrEnum):
    """Where the copy stands, as the destination's journal says."""

    PREPARING = "PREPARING"
    READY = "READY"
    RESUMING = "RESUMING"
    RESUMED = "RESUMED"
    ABORTING = "ABORTING"
    ABORTED = "ABORTED"
    LOST = "LOST"


class CopyEvent(StrEnum):
    """What happened to the copy."""

    RESTORED = "restored, stopped"
    RESUME = "Resume"
    RESUMED = "thawed"
    ABORT = "Abort, or control lost"
    REMOVED = "removed"
    REBOOTED = "host rebooted"


TABLE: Mapping[tuple[State, Event], State] = {
    (State.IDLE, Event.AGREED): State.AGREED,
    (State.AGREED, Event.ATTACHED): State.PRECOPY,
    (State.PRECOPY, Event.ROUND_LANDED): State.PRECOPY,
    (State.PRECOPY, Event.FROZE): State.FROZEN,
    (State.FROZEN, Event.HANDED_OVER): State.HANDING_OVER,
    (State.HANDING_OVER, Event.RESUMED): State.HANDED_OVER,
    (State.HANDED_OVER, Event.RELEASED): State.DONE,
    (State.IDLE, Event.FAILED): State.ROLLED_BACK,
    (State.AGREED, Event.FAILED): State.ROLLED_BACK,
    (State.PRECOPY, Event.FAILED): State.ROLLED_BACK,
    (State.FROZEN, Event.FAILED): State.ROLLED_BACK,
    (State.HANDING_OVER, Event.FAILED): State.IN_DOUBT,
    (State.HANDED_OVER, Event.FAILED): State.IN_DOUBT,
    (State.IN_DOUBT, Event.FAILED): State.IN_DOUBT,
    (State.IN_DOUBT, Event.RESUMED): State.HANDED_OVER,
    (State.IN_DOUBT, Event.OPERATOR_KEPT_DESTINATION): State.HANDED_OVER,
    (State.IN_DOUBT, Event.OPERATOR_KEPT_SOURCE): State.KEPT_SOURCE,
    # Rolling back twice is how a restart finishes what the journal began.
    (State.ROLLED_BACK, Event.FAILED): State.ROLLED_BACK,
    (State.KEPT_SOURCE, Event.OPERATOR_KEPT_SOURCE): State.KEPT_SOURCE,
}

COPY_TABLE: Mapping[tuple[CopyState, CopyEvent], CopyState] = {
    (CopyState.PREPARING, CopyEvent.RESTORED): CopyState.READY,
    (CopyState.READY, CopyEvent.RESUME): CopyState.RESUMING,
    (CopyState.RESUMING, CopyEvent.RESUME): CopyState.RESUMING,
    (CopyState.RESUMING, CopyEvent.RESUMED): CopyState.RESUMED,
    (CopyState.RESUMED, CopyEvent.RESUME): CopyState.RESUMED,
    (CopyState.PREPARING, CopyEvent.ABORT): CopyState.ABORTING,
    (CopyState.READY, CopyEvent.ABORT): CopyState.ABORTING,
    (CopyState.ABORTING, CopyEvent.ABORT): CopyState.ABORTING,
    (CopyState.ABORTING, CopyEvent.REMOVED): CopyState.ABORTED,
    (CopyState.ABORTED, CopyEvent.ABORT): CopyState.ABORTED,
    (CopyState.PREPARING, CopyEvent.REBOOTED): CopyState.ABORTED,
    (CopyState.ABORTING, CopyEvent.REBOOTED): CopyState.ABORTED,
    (CopyState.READY, CopyEvent.REBOOTED): CopyState.LOST,
    # Whether it ran before the reboot nobody can say.
    (CopyState.RESUMING, CopyEvent.REBOOTED): CopyState.LOST,
    (CopyState.LOST, CopyEvent.REBOOTED): CopyState.LOST,
    (CopyState.RESUMED, CopyEvent.REBOOTED): CopyState.RESUMED,
    (CopyState.ABORTED, CopyEvent.REBOOTED): CopyState.ABORTED,
}

SOURCE_MAY_RUN = frozenset({State.ROLLED_BACK, State.KEPT_SOURCE})
OVER = SOURCE_MAY_RUN | {State.DONE}


def follow(state: State, event: Event) -> State:
    """The state after `event`; OutOfOrder when the table has no such line."""
    try:
        return TABLE[state, event]
    except KeyError:
        raise OutOfOrder(f"migration: cannot take '{event}' in {state}") from None


def follow_copy(state: CopyState, event: CopyEvent) -> CopyState:
    """The copy's state after `event`; OutOfOrder when the table has no such line."""
    try:
        return COPY_TABLE[state, event]
    except KeyError:
        raise OutOfOrder(f"copy: cannot take '{event}' in {state}") from None


def can_roll_back(state: State) -> bool:
    """True while no Resume can have been sent: the source may be thawed without asking anybody."""
    return TABLE.get((state, Event.FAILED)) is State.ROLLED_BACK


def can_abort(state: CopyState) -> bool:
    """True while the copy was not told to resume."""
    return (state, CopyEvent.ABORT) in COPY_TABLE


def diagram() -> str:
    """Both tables as one Mermaid diagram each, in the order of the tables."""
    return "\n\n".join((_mermaid(TABLE, State.IDLE), _mermaid(COPY_TABLE, CopyState.PREPARING)))


def _mermaid(
    table: Mapping[tuple[State, Event], State] | Mapping[tuple[CopyState, CopyEvent], CopyState],
    start: State | CopyState,
) -> str:
    lines = [f"    {before} --> {after}: {event}" for (before, event), after in table.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {start}", *lines, "```"])


if __name__ == "__main__":
    import sys

    sys.stdout.write(diagram() + "\n")
