"""What a user may choose of a dump and a restore. Frozen; passed as arguments, never global."""

from dataclasses import dataclass
from typing import Literal

from core.action_scripts import NO_SCRIPTS, ActionScripts

TcpChoice = Literal["refuse", "close", "established"]
TrackChoice = Literal["uffd", "soft-dirty"]
PidMode = Literal["keep", "namespace"]
HoldChoice = Literal["auto", "cgroup", "stop"]  # what keeps a process stopped when nobody traces it


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """Of `migrate dump` and of the source of a live migration."""

    leave_running: bool = False
    shell_job: bool = False
    tcp: TcpChoice = "refuse"
    track: TrackChoice | None = None
    ext_unix_sk: bool = False
    hold: HoldChoice = "auto"
    scripts: ActionScripts = NO_SCRIPTS
    ghost_limit: int | None = None  # bytes of a deleted file; None: as many as it has


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """Of `migrate restore` and of the destination of a live migration."""

    detached: bool = False
    pidfile: str | None = None
    shell_job: bool = False
    tcp: TcpChoice = "refuse"
    pid_mode: PidMode = "keep"
    hold: HoldChoice = "auto"
    scripts: ActionScripts = NO_SCRIPTS
