"""What a drain does next: `decide` is pure, a function of what is written down and of the clock.

Called again and again, by any coordinator: an action that was taken shows in `legs` the next time, so nothing is
begun twice. A leg is a migration of the drain, `away` from the host or `back` to it. A hook that fails counts as a
failed migration does; so does a leg that somebody cancelled, but it is told apart, and a drain that nothing else
disturbed ends as cancelled.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

OVER: Final = frozenset({"done", "failed", "refused", "cancelled"})
FAILED: Final = frozenset({"failed", "refused", "in_doubt"})


@dataclass(frozen=True, slots=True)
class Step:
    """A move that is planned: `takes_s` is a prediction."""

    pid: int
    destination: str
    takes_s: float


@dataclass(frozen=True, slots=True)
class Leg:
    """A migration of the drain. `moved_pid`: what the process is called at its destination, when it is done;
    `hook_failed`: it is done, but the hook after it failed."""

    id: str
    leg: Literal["away", "back"]
    source: str
    pid: int
    destination: str
    state: str
    moved_pid: int = 0
    hook_failed: bool = False

    @property
    def went_wrong(self) -> bool:
        """Counts for --on-failure."""
        return self.failed or self.state == "cancelled"

    @property
    def failed(self) -> bool:
        """Went wrong without anybody's wish."""
        return self.state in FAILED or self.hook_failed


@dataclass(frozen=True, slots=True)
class Drain:
    """A drain as written down. `state` is waiting, running, away or returning; times are seconds since 1970."""

    state: str
    steps: tuple[Step, ...]
    opens_at: float | None = None
    closes_at: float | None = None
    max_parallel: int = 2
    max_parallel_per_destination: int = 1
    on_failure: Literal["skip", "stop", "back"] = "skip"
    and_back: bool = False
    cancel: str = ""  # finish or abort
    return_asked: bool = False
    busy: Counter[str] = field(default_factory=Counter)  # migrations of others by destination


@dataclass(frozen=True, slots=True)
class Enter:
    """Go to another state; with `message` when it is the last."""

    state: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Begin:
    """Start a leg."""

    leg: Literal["away", "back"]
    source: str
    pid: int
    destination: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask a running leg to roll back."""

    migration_id: str


Action: TypeAlias = Enter | Begin | Stop


def decide(drain: Drain, host: str, legs: Sequence[Leg], now: float) -> list[Action]:
    """What to do now; nothing when there is only to wait."""
    match drain.state:
        case "waiting":
            return _wait(drain, now)
        case "running":
            return _go_away(drain, host, legs, now)
        case "away":
            if drain.cancel:
                return [Enter("cancelled", "cancelled; its workloads stay where they are")]
            return [Enter("returning")] if drain.return_asked else []
        case "returning":
            return _come_back(drain, host, legs)
        case _:
            return []


def hook_before(
    state: str, entering: str
) -> tuple[Literal["before-host", "after-host"], Literal["away", "back"]] | None:
    """Which hook of the host, of which leg, is called before a drain in `state` enters another; None: none."""
    if entering == "running":
        return "before-host", "away"
    if entering == "returning":
        return "before-host", "back"
    if state in ("running", "returning"):
        return "after-host", "away" if state == "running" else "back"
    return None


def decide_after_hook(state: str, enter: Enter, on_failure: str, wrong: str) -> Enter:
    """Where a drain in `state` goes whose hook failed (`wrong`) before it would `enter`."""
    told = "; ".join(part for part in (enter.message, wrong) if part)
    if on_failure == "skip":
        return Enter(enter.state, told)
    if on_failure == "back" and state == "running" and enter.state in ("away", "done"):
        return Enter("returning", told)
    return Enter("cancelled" if enter.state == "cancelled" else "failed", told)


def _wait(drain: Drain, now: float) -> list[Action]:
    if drain.cancel:
        return [Enter("cancelled", "cancelled before it began")]
    if drain.opens_at is not None and now < drain.opens_at:
        return []
    if drain.closes_at is not None and now >= drain.closes_at:
        return [Enter("failed", "its window passed while no coordinator ran; nothing was moved")]
    return [Enter("running")]


def _go_away(drain: Drain, host: str, legs: Sequence[Leg], now: float) -> list[Action]:
    away = [leg for leg in legs if leg.leg == "away"]
    running = [leg for leg in away if leg.state not in OVER and leg.state != "in_doubt"]
    wrong = [leg for leg in away if leg.went_wrong]
    if drain.cancel:
        if drain.cancel == "abort" and running:
            return [Stop(leg.id) for leg in running]
        return [] if running else [Enter("cancelled", f"cancelled; {_told(away, drain)}")]
    halted = bool(wrong) and drain.on_failure != "skip"
    left = [] if halted else _startable(drain, away, now)
    actions: list[Action] = list(_begin(drain, host, left, running))
    if actions or running:
        return actions
    if halted and drain.on_failure == "back":
        return [Enter("returning", f"{_told(away, drain)}; bringing back what had moved")]
    if halted or wrong or len(away) < len(drain.steps):
        return [] if left else [Enter(_ending(wrong, halted or len(away) == len(drain.steps)), _told(away, drain))]
    return [Enter("away" if drain.and_back else "done", _told(away, drain))]


def _startable(drain: Drain, away: Sequence[Leg], now: float) -> list[Step]:
    """What has not begun yet and is expected to end before the window closes."""
    begun = {leg.pid for leg in away}
    return [
        step
        for step in drain.steps
        if step.pid not in begun and (drain.closes_at is None or now + step.takes_s <= drain.closes_at)
    ]


def _begin(drain: Drain, host: str, left: Sequence[Step], running: Sequence[Leg]) -> list[Begin]:
    total = len(running)
    there = Counter(leg.destination for leg in running) + drain.busy
    found = []
    for step in left:
        if total >= drain.max_parallel:
            break
        if there[step.destination] >= drain.max_parallel_per_destination:
            continue
        found.append(Begin("away", host, step.pid, step.destination))
        total += 1
        there[step.destination] += 1
    return found


def _come_back(drain: Drain, host: str, legs: Sequence[Leg]) -> list[Action]:
    back = [leg for leg in legs if leg.leg == "back"]
    running = [leg for leg in back if leg.state not in OVER and leg.state != "in_doubt"]
    wrong = [leg for leg in legs if leg.went_wrong]
    gone = [leg for leg in legs if leg.leg == "away" and leg.state == "done"]
    begun = {(leg.source, leg.pid) for leg in back}
    left = [] if drain.cancel else [leg for leg in gone if (leg.destination, leg.moved_pid) not in begun]
    actions: list[Action] = []
    if drain.cancel == "abort":
        actions += [Stop(leg.id) for leg in running]
    room = min(drain.max_parallel, drain.max_parallel_per_destination - drain.busy[host]) - len(running)
    actions += [Begin("back", leg.destination, leg.moved_pid, host) for leg in left[: max(0, room)]]
    if actions or running or left:
        return actions
    home = sum(leg.state == "done" for leg in back)
    message = f"{home} of {len(gone)} brought back" if gone else "nothing had moved: there was nothing to bring back"
    if drain.cancel:
        return [Enter("cancelled", message)]
    if cancelled := sum(leg.state == "cancelled" for leg in back):
        message += f", {cancelled} cancelled"
    if not wrong and drain.and_back and home == len(gone):
        return [Enter("done", message)]
    asked = drain.and_back or any(leg.leg == "away" for leg in wrong)  # else a hook of the host brought them back
    return [Enter(_ending(wrong, asked and home + cancelled == len(gone)), message)]


def _ending(wrong: Sequence[Leg], explained: bool) -> str:
    """Of a drain that is not done: cancelled when what was cancelled is all that went wrong, and explains the rest."""
    return "cancelled" if wrong and explained and not any(leg.failed for leg in wrong) else "failed"


def _told(away: Sequence[Leg], drain: Drain) -> str:
    done = sum(leg.state == "done" for leg in away)
    parts = [f"{done} of {len(drain.steps)} moved" if drain.steps else "nothing was moved: the plan has no move"]
    if failed := sum(leg.state in FAILED for leg in away):
        parts.append(f"{failed} failed")
    if cancelled := sum(leg.state == "cancelled" for leg in away):
        parts.append(f"{cancelled} cancelled")
    if hooks := sum(leg.hook_failed for leg in away):
        parts.append(f"{hooks} with a failed hook")
    if left := len(drain.steps) - len(away):
        parts.append(f"{left} not begun")
    return ", ".join(parts)
