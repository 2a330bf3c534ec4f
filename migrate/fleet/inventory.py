"""The inventory: which hosts there are, and which of their processes are workloads. From a TOML file or the API.

    [hosts.web-1]
    address = "root@web-1.example.net"      # "local": this machine
    labels = { rack = "a", tier = "web" }

    [[workloads]]
    name = "redis"
    command = "*redis-server*"              # also: user, unit, cgroup, container (patterns), host
    priority = 10                           # higher moves first
    tcp = "close"                           # and other options of `migrate`: see MoveChoices
    never_move = false
    apart = "redis"                         # no two workloads of one group on one host

Pure but for `read_inventory`.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from core.errors import UsageError
from migrate.transport.destination import parse_destination
from migrate.wrong import NAME_PATTERN, PATH_PATTERN, TTY_PATTERN, wrong_with

Name: TypeAlias = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
LOCAL = "local"
PATTERNS = ("command", "user", "unit", "cgroup", "container")


class Model(BaseModel):
    """Base of everything that comes from people: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class HostEntry(Model):
    """How to reach a host and what it is for."""

    address: str = Field(description="[user@]host[:port] for SSH, or `local`")
    peer_address: str | None = Field(
        default=None, description="what other hosts call it, where that differs from address"
    )
    labels: dict[str, str] = {}
    identity_file: str | None = Field(default=None, description="SSH key, as `migrate -i`")
    known_hosts: str | None = None
    remote_command: str = Field("migrate", description="what starts migrate there: `sudo -n migrate`")

    @field_validator("address", "peer_address")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value not in (LOCAL, None):
            try:
                parse_destination(value)
            except UsageError as error:
                raise ValueError(error.message.removeprefix("destination ")) from error
        return value

    @property
    def route(self) -> tuple[tuple[str, str], ...]:
        """As journals have it."""
        named = (("identity_file", self.identity_file), ("known_hosts", self.known_hosts))
        return (*((name, value) for name, value in named if value), ("remote_command", self.remote_command))


class MoveChoices(Model):
    """Options of `migrate PID host` that decide whether a process can move."""

    tcp: Literal["refuse", "close"] = "refuse"
    pid_mode: Literal["keep", "namespace"] = "keep"
    shared: list[Annotated[str, Field(pattern=PATH_PATTERN)]] = Field(
        default=[], description="both hosts have the same files below these"
    )
    cpu_check: Literal["ins", "fpu"] = Field(
        default="ins", description="registers and instructions, or registers alone"
    )
    tty: Annotated[str, Field(pattern=TTY_PATTERN)] | None = Field(
        default=None, description="`new`, or the path of a terminal over there, in place of the one here"
    )
    shell_job: bool = Field(default=False, description="leave the session leader or the terminal behind")
    ext_unix_sk: bool = Field(default=False, description="connect datagram sockets anew whose peer stays behind")
    file_locks: bool = Field(default=False, description="carry file locks and leases")
    link_remap: bool = Field(
        default=False, description="give open files that lost their name, but not their last, one beside it"
    )


class Selector(MoveChoices):
    """Which processes are workloads, and how they want to be moved. Patterns as in a shell; all given must match."""

    name: Name
    command: str | None = None
    user: str | None = None
    unit: str | None = None
    cgroup: str | None = None
    container: str | None = Field(
        default=None, description="its id (Docker, Kubernetes, Podman) or name (LXC, systemd-nspawn)"
    )
    host: str | None = None
    priority: int = 0
    never_move: bool = False
    apart: str | None = Field(default=None, description="no two workloads of this group on one host")
    needs: dict[str, str] = Field({}, description="labels that a destination must have")

    def matches(self, host: str, process: dict[str, Any]) -> bool:
        """True when every pattern given fits; a selector without any fits nothing."""
        asked = {key: getattr(self, key) for key in PATTERNS}
        given = {key: pattern for key, pattern in asked.items() if pattern is not None}
        here = self.host is None or fnmatchcase(host, self.host)
        return bool(given) and here and all(fits(process, key, given[key]) for key in given)


def fits(process: Mapping[str, Any], key: str, pattern: str) -> bool:
    """Whether what a host tells of a process is as asked for. What is in no container fits no pattern of one."""
    told = str(process.get(key, ""))  # an older host may not tell it
    return fnmatchcase(told, pattern) and bool(told or key != "container")


class Inventory(Model):
    """The whole file."""

    hosts: dict[Name, HostEntry] = {}
    workloads: list[Selector] = []


class Workload(Model):
    """A process tree on a host that a selector claims. `processes`: how many there are in the tree."""

    host: str
    pid: int
    start_time: int
    name: str
    command: str
    user: str
    unit: str
    cgroup: str
    container: str = ""
    memory_bytes: int
    faults_per_s: float
    processes: int
    ports: list[int] = Field([], description="TCP ports that it listens on")
    selector: Selector


def read_inventory(path: Path) -> Inventory:
    """The inventory of a TOML file; UsageError names the file and the first thing that is wrong."""
    try:
        return Inventory.model_validate(tomllib.loads(path.read_text()))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error
    except ValidationError as error:
        hint = "deploy/inventory.toml shows what an inventory looks like"
        raise UsageError(f"{path}: {wrong_with(error, 'the file')}", hint=hint) from error


def find_workloads(host: str, processes: Sequence[dict[str, Any]], selectors: Iterable[Selector]) -> list[Workload]:
    """The topmost process of every tree that a selector claims, the first selector that does; by PID."""
    by_pid = {int(process["pid"]): process for process in processes}
    claims = {
        pid: selector
        for pid, process in by_pid.items()
        if (selector := next((one for one in selectors if one.matches(host, process)), None)) is not None
    }
    roots = {pid: _topmost(pid, by_pid, claims) for pid in by_pid}
    found = []
    for pid in sorted(claims):
        if roots[pid] != pid:
            continue
        process, tree = by_pid[pid], [member for member, root in roots.items() if root == pid]
        found.append(
            Workload(
                host=host,
                pid=pid,
                start_time=process["start_time"],
                name=claims[pid].name,
                command=process["command"],
                user=process["user"],
                unit=process["unit"],
                cgroup=process["cgroup"],
                container=process.get("container", ""),
                memory_bytes=sum(int(by_pid[member]["memory_bytes"]) for member in tree),
                faults_per_s=sum(float(by_pid[member]["faults_per_s"]) for member in tree),
                processes=len(tree),
                ports=sorted({port for member in tree for port in by_pid[member].get("ports", ())}),
                selector=claims[pid],
            )
        )
    return found


def _topmost(pid: int, by_pid: dict[int, dict[str, Any]], claims: dict[int, Selector]) -> int | None:
    """The highest claimed process above or at `pid`, None when there is none."""
    found, seen = None, set()
    while pid in by_pid and pid not in seen:
        seen.add(pid)
        found = pid if pid in claims else found
        pid = int(by_pid[pid]["ppid"])
    return found
