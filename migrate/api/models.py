"""What goes over the wire. Times are ISO 8601 in UTC, sizes bytes, durations seconds unless a name says otherwise."""

from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator

from core.errors import UsageError
from migrate.cli.parse import parse_duration, parse_rate
from migrate.fleet.inventory import HostEntry, MoveChoices, Name, Selector, Workload

T = TypeVar("T")


class Role(StrEnum):
    """What a token may do: look; start, cancel and drain; change hosts and tokens."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class State(StrEnum):
    """Of a migration."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    IN_DOUBT = "in_doubt"
    CANCELLED = "cancelled"


class DrainState(StrEnum):
    """Of a drain."""

    WAITING = "waiting"
    RUNNING = "running"
    RETURNING = "returning"
    AWAY = "away"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Strict(BaseModel):
    """What clients send: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


def _duration(value: str | None) -> str | None:
    return _checked(parse_duration, value)


def _rate(value: str | None) -> str | None:
    return _checked(parse_rate, value)


def _checked(parse: Any, value: str | None) -> str | None:
    if value is not None:
        try:
            parse("value", value)
        except UsageError as error:
            raise ValueError(f"{error.message.removeprefix('value: ')}; {error.hint}") from error
    return value


class MoveOptions(MoveChoices):
    """As the options of `migrate PID host`."""

    max_downtime: str | None = Field(default=None, examples=["200ms"])
    deadline: str | None = Field(default=None, examples=["10m"])
    bandwidth: str | None = Field(default=None, examples=["1gbit"])
    compress: Literal["auto", "zstd", "none"] = "auto"

    _durations = field_validator("max_downtime", "deadline")(_duration)
    _rates = field_validator("bandwidth")(_rate)


class NewMigration(Strict):
    """Move process `pid` of host `source` to host `destination`."""

    source: Name
    pid: int = Field(gt=0, lt=1 << 31, strict=True)
    destination: Name
    options: MoveOptions = MoveOptions()
    priority: int = Field(0, ge=-100, le=100)


class PhaseSeconds(BaseModel):
    """A part of the downtime."""

    name: str
    seconds: float


class Result(BaseModel):
    """How a migration that is done went."""

    downtime_s: float
    total_s: float
    rounds: int
    pages: int
    sent_bytes: int
    phases: list[PhaseSeconds] = []
    pids: list[int] = []
    hook: str = Field("", description="why the hook after it failed, empty when it did not")


class Migration(BaseModel):
    """A migration, as it stands."""

    id: str
    state: State
    source: str
    pid: int
    destination: str
    options: MoveOptions
    workload: dict[str, Any] = Field({}, description="what the process was when this was asked for")
    drain_id: str | None
    priority: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    cancel: bool = Field(description="a cancel was asked for")
    phase: str
    message: str
    hint: str
    result: Result | None
    requested_by: str


class Page(BaseModel, Generic[T]):
    """A part of a list. `next` is the `offset` of the following part, null at the end."""

    items: list[T]
    next: int | None


class Resolve(Strict):
    """Settle a migration that is in doubt. `keep` is your word on which copy runs; without it the journals decide."""

    keep: Literal["source", "destination"] | None = None


class Check(Strict):
    """A preflight: nothing is touched."""

    source: Name
    pid: int = Field(gt=0, lt=1 << 31, strict=True)
    destination: Name
    options: MoveOptions = MoveOptions()


class BlockerModel(BaseModel):
    """A reason why it cannot move, and what to do about it."""

    code: str
    subject: str
    reason: str
    hint: str | None
    of_destination: bool = Field(False, description="it is about that host, another may do")


class CheckResult(BaseModel):
    """All reasons at once; none: it can move."""

    can_move: bool
    blockers: list[BlockerModel]
    notices: list[str]


class NewSelector(Selector):
    """A selector that is added or changed. `place`: lower ones are asked first, negative ones before those of the
    inventory file; left out, it stays as it is, or is 0."""

    place: int | None = Field(default=None, ge=-1_000_000, le=1_000_000)


class PlacedSelector(NewSelector):
    """A selector, and whether it is the inventory file's, which has no place."""

    of_inventory: bool = False


class NewHost(HostEntry):
    """A host that is added."""

    name: Name


class Host(BaseModel):
    """A host, and what was seen of it last."""

    name: str
    address: str
    peer_address: str | None
    labels: dict[str, str]
    cordoned: bool
    cordon_reason: str
    unreachable: str = Field(description="why it could not be asked, empty when it could")
    facts_at: datetime | None
    kernel: str | None = None
    version: str | None = None
    cpus: int | None = None
    load: float | None = None
    memory_total: int | None = None
    memory_available: int | None = None
    workloads: list[Workload] = []


class Cordon(Strict):
    """No migration goes to a cordoned host."""

    reason: str = Field("", max_length=500)


class NewDrain(Strict):
    """Empty a host: every workload of it moves elsewhere."""

    host: Name
    to: list[Name] = Field([], description="destinations; none: all that are not cordoned")
    to_labels: dict[str, str] = {}
    window: str | None = Field(default=None, examples=["Sat 02:00-04:00 Europe/Berlin"])
    max_parallel: int = Field(2, ge=1, le=64)
    max_parallel_per_destination: int = Field(1, ge=1, le=64)
    bandwidth: str | None = Field(default=None, examples=["1gbit"], description="for all of it together")
    deadline: str | None = Field(default=None, examples=["10m"], description="for each migration")
    on_failure: Literal["skip", "stop", "back"] = "skip"
    order: Literal["size", "dirty-rate", "priority"] = "priority"
    and_back: bool = False
    dry_run: bool = False

    _durations = field_validator("deadline")(_duration)
    _rates = field_validator("bandwidth")(_rate)


class PlannedMove(BaseModel):
    """One workload of a drain: where to, and when it is expected to begin and to take, in seconds.

    `hindrance`: what preflight has against moving it now, wherever to; empty when it has nothing.
    """

    pid: int
    name: str
    destination: str
    begins_s: float
    takes_s: float
    memory_bytes: int
    hindrance: str = ""


class Unplaced(BaseModel):
    """A workload that stays, and why."""

    pid: int
    name: str
    reason: str
    hint: str


class DrainPlan(BaseModel):
    """Who goes where. `takes_s`: the whole of it."""

    moves: list[PlannedMove]
    unplaced: list[Unplaced]
    takes_s: float


class Drain(BaseModel):
    """A drain, as it stands. Of a dry run `id` is empty and only the plan counts."""

    id: str
    host: str
    state: DrainState
    spec: NewDrain
    plan: DrainPlan
    created_at: datetime
    opens_at: datetime | None
    closes_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    message: str
    requested_by: str
    moved: int = 0
    running: int = 0
    failed: int = 0
    cancelled: int = 0
    left: int = 0
    eta_s: float | None = None
    migrations: list[str] = []


class CancelDrain(Strict):
    """`finish`: what runs goes on to its end; `abort`: it rolls back."""

    running: Literal["finish", "abort"] = "finish"


class Window(BaseModel):
    """A maintenance window, and when it opens next."""

    name: Name
    text: str = Field(examples=["Sat 02:00-04:00 Europe/Berlin", "DTSTART;TZID=…;RRULE:…/2h"])
    hosts: list[Name] = []
    opens_at: datetime | None = None
    closes_at: datetime | None = None


class NewToken(Strict):
    """A token for `name`."""

    name: Name
    role: Role


class Token(BaseModel):
    """A token. Its text is told once, when it is made."""

    name: str
    role: Role
    created_at: datetime
    used_at: datetime | None
    token: str | None = None


class AuditEntry(BaseModel):
    """Who did what."""

    number: int
    at: datetime
    who: str
    action: str
    target: str
    detail: dict[str, Any]


class EventModel(BaseModel):
    """What a migration told, the `number`th time."""

    number: int
    at: datetime
    body: dict[str, Any]


class Problem(BaseModel):
    """Every error (RFC 9457, application/problem+json). `hint`: what to do about it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    hint: str = ""
    blockers: list[BlockerModel] = []
