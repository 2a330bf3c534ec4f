"""When to freeze: one pure decision after each round. Knows no clock, no host and no process."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeAlias

PAGE_BYTES = 4096
DEFAULT_MAX_DOWNTIME_S = 0.3
# A round re-arms the tracker, and each re-arming costs the target ~1 µs per page it stores to next.
MIN_ROUND_S = 1.0
SHRINKS_BELOW = 0.9  # of the round before: anything above is "no longer shrinks"
PATIENCE_ROUNDS = 3  # that many in a row are a verdict
MAX_ROUNDS = 30
ALLOW_MORE = "allow more with --max-downtime"
ROUND_UP_S = 0.05
THROTTLE_STEPS = (0.5, 0.25, 0.1)
WORTH_A_ROUND = 0.1  # of what no round makes less: with fewer seconds of copying left, another one gains nothing


@dataclass(frozen=True, slots=True)
class FreezeCost:
    """What a freeze takes without its pages: seconds, and seconds each.

    Fitted from moves of 1,000 tasks and of 5,000 threads that differ, between two hosts on two cores; descriptors as
    tests/bench has them.
    """

    base_s: float = 0.020
    task_s: float = 1.1e-3
    thread_s: float = 450e-6
    fd_s: float = 100e-6
    vma_s: float = 25e-6

    def seconds(self, *, tasks: int, threads: int, fds: int, vmas: int) -> float:
        """Predicted seconds for a target of that shape."""
        each = tasks * self.task_s + threads * self.thread_s + fds * self.fd_s + vmas * self.vma_s
        return self.base_s + each


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One finished round. `since_scan_s`: from the scan before to this one, None in the first; `took_s`: from this
    scan until its last page landed, without `compared_s`, which comparing memory with what went over took; `ended_s`:
    since the migration began."""

    number: int
    dirty_pages: int
    sent_bytes: int
    took_s: float
    since_scan_s: float | None
    ended_s: float
    cpu_share: float = 1.0
    compared_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Goal:
    """What the user asked for, and what is known about the pair. `explicit`: --max-downtime was given."""

    max_downtime_s: float = DEFAULT_MAX_DOWNTIME_S
    explicit: bool = False
    deadline_s: float | None = None
    may_throttle: bool = False
    freeze_cost_s: float = 0.0
    round_trip_s: float = 0.0

    @property
    def fixed_s(self) -> float:
        """The downtime when there is nothing left to copy."""
        return self.freeze_cost_s + self.round_trip_s

    def without_throttle(self) -> "Goal":
        """The same where the kernel cannot bound the target's CPU."""
        return replace(self, may_throttle=False)


@dataclass(frozen=True, slots=True)
class Freeze:
    """Freeze now; `expected_s` is the predicted downtime."""

    expected_s: float


@dataclass(frozen=True, slots=True)
class Again:
    """Another round; its scan comes `wait_s` from now."""

    wait_s: float
    expected_s: float


@dataclass(frozen=True, slots=True)
class Throttle:
    """Let the target have `share` of its CPU, then another round."""

    share: float
    expected_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave the source running. `hint`: what would have let it go."""

    reason: str
    expected_s: float
    hint: str


Decision: TypeAlias = Freeze | Again | Throttle | GiveUp


def decide(rounds: Sequence[RoundRecord], goal: Goal) -> Decision:
    """What to do after the last of `rounds` (at least one)."""
    last = rounds[-1]
    expected_s = expected_downtime_s(rounds, goal)
    if expected_s <= goal.max_downtime_s:
        return Freeze(expected_s)
    least_s = goal.fixed_s + min(record.compared_s for record in rounds[-PATIENCE_ROUNDS:])
    if least_s > goal.max_downtime_s:
        if goal.explicit:
            why = _reason("more with nothing left to copy", expected_s, goal)
            return GiveUp(why, expected_s, f"allow at least --max-downtime {least_s + ROUND_UP_S:.1f}s")
        if expected_s - least_s <= WORTH_A_ROUND * least_s:
            return Freeze(expected_s)
    if goal.deadline_s is not None and last.ended_s >= goal.deadline_s:
        why = _reason(f"not reached within the deadline of {goal.deadline_s:g} s", expected_s, goal)
        return GiveUp(why, expected_s, f"{ALLOW_MORE}, or more time with --deadline")
    if not _stalled(rounds):
        return Again(_wait_s(last), expected_s)
    return _decide_stalled(last, expected_s, goal)


def expected_downtime_s(rounds: Sequence[RoundRecord], goal: Goal) -> float:
    """Last dirty bytes / measured bandwidth + what was compared + restore cost + round trip. The set grows with the
    time it had to: a round that took longer than the scans were apart leaves more behind than it carried."""
    last = rounds[-1]
    grown = 1.0 if not last.since_scan_s else max(1.0, last.took_s / last.since_scan_s)
    dirty_bytes = last.dirty_pages * PAGE_BYTES * grown
    speed = speed_bytes_per_s(rounds)
    copy_s = dirty_bytes / speed if speed else 0.0
    return copy_s + last.compared_s + goal.fixed_s


def speed_bytes_per_s(rounds: Sequence[RoundRecord]) -> float:
    """Page bytes landed per second (before compression: that is what shrinks the downtime), by the round among
    the last three that carried most: short rounds measure latency."""
    biggest = max(rounds[-3:], key=lambda record: record.dirty_pages)
    if biggest.took_s <= 0:
        return 0.0
    return biggest.dirty_pages * PAGE_BYTES / biggest.took_s


def _stalled(rounds: Sequence[RoundRecord]) -> bool:
    """True when PATIENCE_ROUNDS rounds in a row did not shrink, all at today's share of the CPU."""
    if len(rounds) >= MAX_ROUNDS:
        return True
    pairs = list(pairwise(rounds))[-PATIENCE_ROUNDS:]
    return len(pairs) == PATIENCE_ROUNDS and all(
        after.dirty_pages > SHRINKS_BELOW * before.dirty_pages and before.cpu_share == rounds[-1].cpu_share
        for before, after in pairs
    )


def _decide_stalled(last: RoundRecord, expected_s: float, goal: Goal) -> Decision:
    lower = [share for share in THROTTLE_STEPS if share < last.cpu_share]
    if goal.may_throttle and lower:
        return Throttle(lower[0], expected_s)
    if goal.deadline_s is not None:
        return Again(_wait_s(last), expected_s)  # it may calm down until then
    if goal.explicit:
        why = _reason(f"{last.dirty_pages} dirty pages no longer shrink", expected_s, goal)
        return GiveUp(why, expected_s, f"{ALLOW_MORE}, or have it wait for calmer times with --deadline")
    return Freeze(expected_s)


def _wait_s(last: RoundRecord) -> float:
    return max(0.0, MIN_ROUND_S - last.took_s)


def _reason(why: str, expected_s: float, goal: Goal) -> str:
    return f"downtime of {goal.max_downtime_s:g} s: {why}: freezing now would take about {expected_s:.2f} s"
