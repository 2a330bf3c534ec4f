"""`migrate PID host` and `migrate check PID host`."""

import sys
from collections.abc import Coroutine
from typing import Annotated

import typer

from core.errors import MigrateError, UsageError
from migrate.cli import interrupt
from migrate.cli.options import (
    ActionScript,
    CpuCheck,
    EventsFile,
    ExtUnixSk,
    FileLocks,
    GhostLimit,
    HostText,
    Json,
    Key,
    KnownHosts,
    LaterText,
    LinkRemap,
    LogFile,
    PidMode,
    PidText,
    RemoteCommand,
    Shared,
    ShellJob,
    SyncFiles,
    Tcp,
    Tty,
    Verbose,
    refuse_later,
)
from migrate.cli.progress import CHECKING
from migrate.cli.watch import ExitCode, View, Watch, say, watch
from migrate.cli.wishes import FileWishes, Pace, Subject, parse_request


def move(
    pid: PidText,
    host: HostText,
    key: Key = None,
    max_downtime: Annotated[
        str | None, typer.Option(metavar="TIME", help="Freeze when it is expected to take no longer: 200ms.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="Give up after that, the process running on here: 10m.")
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="RATE", help="Send no faster than 1gbit (bits) or 100MB (bytes) per second.")
    ] = None,
    streams: Annotated[str, typer.Option(metavar="N", help="Page streams side by side.", show_default=True)] = "1",
    compress: Annotated[
        str, typer.Option(metavar="auto|zstd|none", help="Compress the pages.", show_default=True)
    ] = "auto",
    tcp: Tcp = "refuse",
    pid_mode: PidMode = "keep",
    shared: Shared = None,
    shell_job: ShellJob = False,
    tty: Tty = None,
    cpu_check: CpuCheck = "ins",
    action_script: ActionScript = None,
    ext_unix_sk: ExtUnixSk = False,
    file_locks: FileLocks = False,
    link_remap: LinkRemap = False,
    ghost_limit: GhostLimit = None,
    sync_files: SyncFiles = "none",
    track: Annotated[
        str,
        typer.Option(metavar="auto|uffd-wp|soft-dirty|hash", help="How written pages are found.", show_default=True),
    ] = "auto",
    remote_command: RemoteCommand = "migrate",
    known_hosts: KnownHosts = None,
    json: Json = False,
    events_file: EventsFile = None,
    verbose: Verbose = 0,
    log_file: LogFile = None,
    move_address: LaterText = None,
    migration_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Its name, for `migrate status`.")
    ] = None,
    keep_source_on_failure: Annotated[bool, typer.Option(hidden=True)] = False,
) -> int:
    """Move the running process PID to another host, by SSH, while it works.

    Its memory goes over while it runs; it stands still only for the last pages. If anything fails it runs on here.
    """
    refuse_later(move_address=move_address)
    files = FileWishes(ext_unix_sk, file_locks, link_remap, ghost_limit, tty)
    subject = Subject(
        pid, host, key, known_hosts, remote_command, tcp, pid_mode, shared, shell_job, action_script, files, sync_files,
        cpu_check,
    )  # fmt: skip
    request = parse_request(subject, Pace(max_downtime, deadline, bandwidth, streams, compress, track, migration_id))
    with watch(View(json, verbose, log_file, events_file)) as watching:
        if keep_source_on_failure:
            watching.note("--keep-source-on-failure: it always runs on here when the move fails")
        from migrate import source, wiring

        follow(watching, source.migrate_process(request, watching.emit, wiring.live_world(request)))
        return watching.finish()


def check(
    pid: PidText,
    host: HostText,
    key: Key = None,
    tcp: Tcp = "refuse",
    pid_mode: PidMode = "keep",
    shared: Shared = None,
    shell_job: ShellJob = False,
    tty: Tty = None,
    cpu_check: CpuCheck = "ins",
    action_script: ActionScript = None,
    ext_unix_sk: ExtUnixSk = False,
    file_locks: FileLocks = False,
    link_remap: LinkRemap = False,
    ghost_limit: GhostLimit = None,
    sync_files: SyncFiles = "none",
    remote_command: RemoteCommand = "migrate",
    known_hosts: KnownHosts = None,
    json: Json = False,
    verbose: Verbose = 0,
    log_file: LogFile = None,
) -> int:
    """Name everything that would be in the way of `migrate PID host`. Nothing is stopped, nothing is changed.

    Exit code 0: it can move. 3: it cannot, and every reason is named.
    """
    files = FileWishes(ext_unix_sk, file_locks, link_remap, ghost_limit, tty)
    subject = Subject(
        pid, host, key, known_hosts, remote_command, tcp, pid_mode, shared, shell_job, action_script, files, sync_files,
        cpu_check,
    )  # fmt: skip
    request = parse_request(subject, Pace())
    with watch(View(json, verbose, log_file, title=CHECKING)) as watching:
        from core import probe_tracker_kind
        from migrate import source, wiring

        follow(watching, source.check_process(request, watching.emit, wiring.live_world(request)))
        if watching.ending is None:
            watching.close()
            can = f"PID {request.pid} can move to {request.destination}. "
            say([] if json else [f"{can}Pages written meanwhile are found by {probe_tracker_kind()}."], sys.stdout)
            return ExitCode.DONE
        return watching.finish()


def follow(watching: Watch, work: Coroutine[object, object, object]) -> None:
    """Run `work` to its end, which it tells by an event; or tell it ourselves when it was stopped before it could."""
    try:
        interrupt.run(work, watching)
    except UsageError:
        raise
    except MigrateError as error:
        watching.fail(error)
    except Exception as error:
        if watching.can_turn_back:
            raise
        watching.doubt(error)
