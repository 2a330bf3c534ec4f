"""How long the target stood still, split by phase, by one clock: the coordinator's. Other hosts' clocks only tell parts
of parts."""

from collections.abc import Callable, Iterable

from migrate.events import PhaseSeconds
from migrate.pb import control_pb2 as pb


class Downtime:
    """A stop watch from Freeze being sent to Resumed being heard: what the target sees is shorter by a round trip."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._began: float | None = None
        self._lap = 0.0
        self._phases: list[PhaseSeconds] = []

    def begin(self) -> None:
        """The freeze is being asked for."""
        self._began = self._lap = self._now()

    def put_off(self, seconds: float) -> None:
        """It ran on for that long after it was asked to stop."""
        if self._began is not None:
            self._began += seconds
            self._lap += seconds

    def lap(self, name: str, parts: Iterable[pb.PhaseTime] = (), *, split: bool = False) -> None:
        """The phase `name` ends now. `split`: the parts were measured here and stand for themselves, `name` is the
        rest; otherwise they are told as "name: part" and do not count."""
        now = self._now()
        took, self._lap = now - self._lap, now
        told = list(parts)
        if split:
            others = [part for part in told if part.name != name]
            rest = max(0.0, took - sum(part.seconds for part in others))
            self._phases += [PhaseSeconds(name, rest), *(PhaseSeconds(part.name, part.seconds) for part in others)]
        else:
            self._phases += [PhaseSeconds(name, took)]
            self._phases += [PhaseSeconds(f"{name}: {part.name}", part.seconds) for part in told]

    @property
    def phases(self) -> tuple[PhaseSeconds, ...]:
        """In their order; a phase entered twice (resume, after asking again) stands there once."""
        merged: dict[str, float] = {}
        for phase in self._phases:
            merged[phase.name] = merged.get(phase.name, 0.0) + phase.seconds
        return tuple(PhaseSeconds(name, seconds) for name, seconds in merged.items())

    @property
    def total_s(self) -> float:
        """The sum of the phases that are no part of another."""
        return sum(phase.seconds for phase in self.phases if ": " not in phase.name)

    @property
    def since_begin_s(self) -> float:
        """How long it stands still until now; 0 when it was never asked to."""
        return 0.0 if self._began is None else self._now() - self._began
