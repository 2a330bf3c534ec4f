"""What a migration's source side needs from outside, as one record of small interfaces: the live ones are wired by
wiring.py, the tests' are in tests/fakes. No behaviour here."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from core import FileChoices
from core.errors import Blocker
from migrate.convergence import FreezeCost
from migrate.engine import Keeper, Peer
from migrate.journal import Journal
from migrate.keeper.parked import Parked
from migrate.pb import control_pb2 as pb


@dataclass(frozen=True, slots=True)
class MigrationRequest:
    """What the user asked for. `max_downtime_s` None: the default goal, and freezing anyway when it is not reachable.

    `route` is what is needed to reach the destination again (key file, remote command …), for `migrate resolve`.
    """

    pid: int
    destination: str
    route: tuple[tuple[str, str], ...] = ()
    max_downtime_s: float | None = None
    deadline_s: float | None = None
    bandwidth_bytes_per_s: int | None = None
    streams: int = 1
    compress: str = "auto"
    tcp: str = "refuse"
    pid_mode: str = "keep"
    track: str = "auto"
    cpu_check: str = "ins"
    shell_job: bool = False
    sync_files: str = "none"
    files: FileChoices = field(default_factory=FileChoices)
    tty: str = ""  # what stands in for a terminal outside of the tree: "new", or the path of one over there
    assume_shared: tuple[str, ...] = ()  # paths below which both hosts have the same files
    action_scripts: tuple[str, ...] = ()  # the same files on both hosts
    throttle: bool = True
    keep_source: bool = False
    migration_id: str = ""  # its name, where whoever asks for it has to know it beforehand
    reconnect_s: float = 30.0  # how long to look for a destination that went silent after the hand-over began


class Outcome(StrEnum):
    """How a migration came out; the exit codes are 0, 1, 3 and 4."""

    DONE = "done"
    ROLLED_BACK = "rolled back"
    REFUSED = "refused"
    IN_DOUBT = "in doubt"

    @property
    def exit_code(self) -> int:
        """What a script learns."""
        return {Outcome.DONE: 0, Outcome.ROLLED_BACK: 1, Outcome.REFUSED: 3, Outcome.IN_DOUBT: 4}[self]


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """How it came out, and why if it did not work; the figures are in the last event."""

    migration_id: str
    outcome: Outcome
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class SourceView:
    """What preflight saw of the target here: what it needs of a host, and what speaks against moving it."""

    target: pb.TargetFacts
    blockers: tuple[Blocker, ...] = ()
    notices: tuple[str, ...] = ()


class PageStream(Protocol):
    """One way for pages to the destination's keeper: `fd` is for our keeper to inherit."""

    @property
    def fd(self) -> int:
        """Write pages here."""
        ...

    def close_local(self) -> None:
        """The keeper has its own copy of `fd` now: close ours, so that its death is the stream's end."""
        ...

    async def close(self) -> None:
        """Hang up; whoever still writes gets EPIPE. Again is no error."""
        ...


class Far(Protocol):
    """The way to the destination. `notices`: what a person should know of the way, once connected."""

    @property
    def notices(self) -> Sequence[str]: ...

    async def serve(self) -> Peer:
        """Connect, and start `migrate dest` there."""
        ...

    async def attach(self, migration_id: str) -> Peer:
        """Over a fresh connection, `migrate dest --attach ID`."""
        ...

    async def open_page_stream(self, migration_id: str) -> PageStream:
        """`migrate dest --pages ID`."""
        ...

    async def close(self) -> None:
        """Close every connection; again is no error."""
        ...


SpawnKeeper = Callable[[str, Sequence[PageStream], int], Awaitable[Keeper]]


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside. `examine` is preflight's half here, `start_time` names the target for good."""

    journal: Journal
    far: Far
    examine: Callable[[MigrationRequest], SourceView]
    start_time: Callable[[int], int]
    spawn_keeper: SpawnKeeper
    parked: Parked
    sleep: Callable[[float], Awaitable[None]]
    now: Callable[[], float]
    new_id: Callable[[], str]
    host_name: str = ""
    freeze_cost: FreezeCost = field(default_factory=FreezeCost)
