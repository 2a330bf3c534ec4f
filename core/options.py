"""What a user may choose of a dump and a restore. Frozen; passed as arguments, never global."""

from dataclasses import dataclass
from typing import Final, Literal

from core.action_scripts import NO_SCRIPTS, ActionScripts

TcpChoice = Literal["refuse", "close", "established"]
TrackChoice = Literal["uffd-wp", "soft-dirty", "hash"]
PidMode = Literal["keep", "namespace"]
TerminalChoice = Literal["refuse", "given", "new"]  # of a terminal outside of the tree, which stays behind
CpuCheck = Literal["ins", "fpu"]  # as criu's --cpu-cap: registers and instructions, or registers alone
PageMode = Literal["read", "splice"]  # how pages leave a process for a directory
HoldChoice = Literal["auto", "cgroup", "stop"]  # what keeps a process stopped when nobody traces it


@dataclass(frozen=True, slots=True)
class FileChoices:
    """What may be done for the sake of open files; named as in criu(8)."""

    ext_unix_sk: bool = False  # a datagram socket connected to one outside is connected anew
    file_locks: bool = False  # locks and leases are carried
    link_remap: bool = False  # a file that lost this name but has another gets a new one beside it
    ghost_limit: int | None = None  # bytes of a deleted file; None: as many as it has
    # given: whoever restores it offers another; new: one is made for it, which a person can attach to (live only)
    terminal: TerminalChoice = "refuse"
    # paths of files that are written to and that the other side lacks: they go over with their content (live only)
    carried: frozenset[str] = frozenset()


NO_CHOICES: Final = FileChoices()


@dataclass(frozen=True, slots=True)
class DumpOptions:
    """Of `migrate dump` and of the source of a live migration."""

    leave_running: bool = False
    shell_job: bool = False
    tcp: TcpChoice = "refuse"
    track: TrackChoice | None = None
    hold: HoldChoice = "auto"
    scripts: ActionScripts = NO_SCRIPTS
    files: FileChoices = NO_CHOICES
    prev_images_dir: str | None = None  # the parent's, relative to the directory of the images
    auto_dedup: bool = False
    page_mode: PageMode = "read"


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
    auto_dedup: bool = False  # pages leave the images as soon as it runs
    terminal: str = ""  # path of the one that a shell's job is given; none: it is refused
