"""From the words of the command line to the request that migrate/source.py takes: every value checked, none guessed."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.errors import UsageError
from migrate.cli.parse import (
    parse_choice,
    parse_count,
    parse_duration,
    parse_ghost_limit,
    parse_id,
    parse_pid,
    parse_rate,
)
from migrate.transport.destination import parse_destination

if TYPE_CHECKING:
    from core import FileChoices, TerminalChoice
    from migrate.world import MigrationRequest

TCP_CHOICES = ("refuse", "close", "established")
PID_CHOICES = ("keep", "namespace")
COMPRESS_CHOICES = ("auto", "zstd", "none")
CPU_CHOICES = ("ins", "fpu")
SYNC_CHOICES = ("none", "missing", "changed")
TRACK_CHOICES = ("auto", "uffd-wp", "soft-dirty", "hash")
STREAMS_AT_MOST = 8


@dataclass(frozen=True, slots=True)
class FileWishes:
    """What may be done for the sake of open files, as written."""

    ext_unix_sk: bool = False
    file_locks: bool = False
    link_remap: bool = False
    ghost_limit: str | None = None
    tty: str | None = None

    def parsed(self) -> "FileChoices":
        """Every value checked."""
        import core

        return core.FileChoices(
            self.ext_unix_sk, self.file_locks, self.link_remap, parse_ghost_limit(self.ghost_limit),
            parse_tty(self.tty),
        )  # fmt: skip


NO_WISHES: Final = FileWishes()


@dataclass(frozen=True, slots=True)
class Subject:
    """What `migrate check` takes, as written: which process, where to, what of it may be left behind."""

    pid: str
    host: str
    keys: Sequence[Path] | None = None
    known_hosts: Path | None = None
    remote_command: str = "migrate"
    tcp: str = "refuse"
    pid_mode: str = "keep"
    shared: Sequence[Path] | None = None
    shell_job: bool = False
    action_scripts: Sequence[Path] | None = None
    files: FileWishes = NO_WISHES
    sync_files: str = "none"
    cpu_check: str = "ins"


@dataclass(frozen=True, slots=True)
class Pace:
    """What `migrate PID host` takes besides, as written."""

    max_downtime: str | None = None
    deadline: str | None = None
    bandwidth: str | None = None
    streams: str = "1"
    compress: str = "auto"
    track: str = "auto"
    migration_id: str | None = None


def parse_request(subject: Subject, pace: Pace) -> "MigrationRequest":
    """The request; UsageError names the first value that is wrong."""
    from migrate.world import MigrationRequest  # brings SSH with it

    if parse_choice("--tcp", subject.tcp, TCP_CHOICES) == "established":
        raise UsageError(
            "--tcp established: not carried yet", hint="--tcp close closes the connections; clients have to reconnect"
        )
    return MigrationRequest(
        pid=parse_pid(subject.pid),
        destination=str(parse_destination(subject.host)),
        route=parse_route(subject),
        tcp=subject.tcp,
        pid_mode=parse_choice("--pid", subject.pid_mode, PID_CHOICES),
        shell_job=subject.shell_job or subject.files.tty is not None,
        files=subject.files.parsed(),
        tty=subject.files.tty or "",
        cpu_check=parse_choice("--cpu-check", subject.cpu_check, CPU_CHOICES),
        sync_files=parse_choice("--sync-files", subject.sync_files, SYNC_CHOICES),
        assume_shared=parse_shared(subject.shared),
        action_scripts=parse_scripts(subject.action_scripts),
        max_downtime_s=None if pace.max_downtime is None else parse_duration("--max-downtime", pace.max_downtime),
        deadline_s=None if pace.deadline is None else parse_duration("--deadline", pace.deadline),
        bandwidth_bytes_per_s=None if pace.bandwidth is None else parse_rate("--bandwidth", pace.bandwidth),
        streams=parse_streams(pace.streams),
        compress=parse_choice("--compress", pace.compress, COMPRESS_CHOICES),
        track=parse_choice("--track", pace.track, TRACK_CHOICES),
        migration_id=parse_id("--id", pace.migration_id) if pace.migration_id is not None else "",
    )


def parse_streams(text: str) -> int:
    """--streams: one, for now; the source's keeper sends down one only, and the other side would wait for the rest."""
    streams = parse_count("--streams", text, STREAMS_AT_MOST)
    if streams > 1:
        raise UsageError(f"--streams {streams}: more than one is not carried yet", hint="leave it out")
    return streams


def parse_tty(text: str | None) -> "TerminalChoice":
    """--tty: `new`, or the path of a terminal over there."""
    if text is None:
        return "refuse"
    if text != "new" and not text.startswith("/"):
        raise UsageError(
            f"--tty {text}: is neither `new` nor an absolute path", hint="over there tty(1) tells the path"
        )
    return "new" if text == "new" else "given"


def parse_shared(paths: Sequence[Path] | None) -> tuple[str, ...]:
    """--shared: absolute paths, since both hosts read them."""
    for path in paths or ():
        if not path.is_absolute():
            raise UsageError(f"--shared {path}: is not an absolute path")
    return tuple(str(path) for path in paths or ())


def parse_scripts(paths: Sequence[Path] | None) -> tuple[str, ...]:
    """--action-script: absolute paths of files that can be executed."""
    for path in paths or ():
        if not path.is_file():
            raise UsageError(f"--action-script {path}: there is no such file")
        if not os.access(path, os.X_OK):
            raise UsageError(f"--action-script {path}: is not a file that can be executed", hint=f"chmod +x {path}")
    return tuple(str(path.absolute()) for path in paths or ())


def parse_route(subject: Subject) -> tuple[tuple[str, str], ...]:
    """How to get to the other host again: it goes into the journal, so paths are made absolute."""
    try:
        words = shlex.split(subject.remote_command)
    except ValueError as error:
        raise UsageError(
            f"--remote-command {subject.remote_command!r}: {error}", hint="quote it as a shell would"
        ) from error
    if not words:
        raise UsageError("--remote-command: is empty", hint="for example: --remote-command 'sudo -n migrate'")
    known_hosts = [("known_hosts", str(subject.known_hosts.absolute()))] if subject.known_hosts else []
    return (
        *(("identity_file", str(key.absolute())) for key in subject.keys or ()),
        *known_hosts,
        ("remote_command", subject.remote_command),
    )
