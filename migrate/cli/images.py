"""`migrate dump`, `pre-dump` and `restore`: a process into a directory of images, and back. Options as in criu(8)."""

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from core.errors import Refused, UsageError
from migrate.cli.logs import MigrationStamp, start_logging
from migrate.cli.options import (
    ActionScript,
    ExtUnixSk,
    FileLocks,
    GhostLimit,
    LaterText,
    LinkRemap,
    LogFile,
    Needless,
    PidMode,
    ShellJob,
    Verbose,
    refuse_later,
)
from migrate.cli.page_server import LOOPBACK, Address, AllowPlain, Port, page_sink, parse_page_server
from migrate.cli.parse import parse_choice, parse_pid
from migrate.cli.watch import ExitCode, say
from migrate.cli.wishes import PID_CHOICES, FileWishes, parse_scripts
from migrate.cli.words import count, seconds, size

if TYPE_CHECKING:
    from core import PreflightOptions

# Nobody is taken away by a dump, and nothing is tracked.
ONLY_AGAINST_MOVING = frozenset({"supervisor", "kernel-lacks"})
PAGE_MODES = ("read", "splice")
LaterFlag = Annotated[bool, typer.Option(hidden=True)]
Directory = Annotated[
    Path, typer.Option("-D", "--images-dir", metavar="DIR", help="Directory of the images.", show_default=False)
]
PrevImagesDir = Annotated[
    str | None,
    typer.Option(
        "--prev-images-dir", metavar="REL", help="Directory of the last pre-dump, relative to DIR.", show_default=False
    ),
]
AutoDedup = Annotated[
    bool, typer.Option("--auto-dedup", help="Punch holes in the parents' pages files where newer pages replace theirs.")
]
PageServer = Annotated[
    bool, typer.Option("--page-server", help="Send the pages to the page server at --address and --port.")
]
PageModeText = Annotated[
    str,
    typer.Option(
        "--pre-dump-mode", metavar="read|splice",
        help="How pages are taken: copied while it runs, or through pipes while it stands still.", show_default=True,
    ),
]  # fmt: skip
TcpClose = Annotated[bool, typer.Option("--tcp-close", help="Established TCP connections are closed.")]


def dump(
    tree: Annotated[str, typer.Option("-t", "--tree", metavar="PID", help="The process.", show_default=False)],
    images_dir: Directory,
    leave_running: Annotated[bool, typer.Option("-R", "--leave-running", help="It runs on afterwards.")] = False,
    shell_job: ShellJob = False,
    tcp_close: TcpClose = False,
    prev_images_dir: PrevImagesDir = None,
    auto_dedup: AutoDedup = False,
    pre_dump_mode: PageModeText = "read",
    page_server: PageServer = False,
    address: Address = LOOPBACK,
    port: Port = None,
    allow_plain_tcp: AllowPlain = False,
    action_script: ActionScript = None,
    verbose: Verbose = 0,
    log_file: LogFile = None,
    tcp_established: LaterFlag = False,
    ext_unix_sk: ExtUnixSk = False,
    file_locks: FileLocks = False,
    link_remap: LinkRemap = False,
    ghost_limit: GhostLimit = None,
    track_mem: Annotated[bool, typer.Option("--track-mem", hidden=True)] = False,
    leave_stopped: LaterFlag = False,
    evasive_devices: LaterFlag = False,
    manage_cgroups: LaterText = None,
    external: LaterText = None,
    root: LaterText = None,
) -> int:
    """Write the state of a process into a directory, in CRIU's image format 1.1.

    The process ends when all is written; with -R, and after any failure, it runs on.
    """
    refuse_later(
        tcp_established=tcp_established, track_mem=track_mem and leave_running,
        leave_stopped=leave_stopped, evasive_devices=evasive_devices, manage_cgroups=manage_cgroups,
        external=external, root=root,
    )  # fmt: skip
    pid = parse_pid(tree)
    server = parse_page_server(page_server, address, port, allow_plain_tcp)
    start_logging(log_file, verbose, MigrationStamp())
    import core

    options = core.DumpOptions(
        leave_running, shell_job, "close" if tcp_close else "refuse",
        scripts=core.ActionScripts(parse_scripts(action_script)), prev_images_dir=prev_images_dir,
        files=FileWishes(ext_unix_sk, file_locks, link_remap, ghost_limit, _job_terminal(shell_job)).parsed(),
        auto_dedup=auto_dedup, page_mode=_page_mode(pre_dump_mode),
    )  # fmt: skip
    _refuse(pid, core.PreflightOptions(options.tcp, shell_job, files=options.files))
    with page_sink(server) as sink:
        report = core.dump(pid, images_dir, options, sink)
    stopped_s = sum(spent for _, spent in report.phases[1:])  # the first is before the freeze
    pages = pages_words(report.pages, report.inherited)
    after = f"runs on; it stood still for {seconds(stopped_s)}" if leave_running else f"has ended; {seconds(stopped_s)}"
    say(
        [
            f"Dumped PID {pid} to {images_dir}: {pages}. It {after}.",
            *_notes(report.notices),
            *_phase_lines(report.phases, verbose),
        ],
        sys.stdout,
    )
    return ExitCode.DONE


def pre_dump(
    tree: Annotated[str, typer.Option("-t", "--tree", metavar="PID", help="The process.", show_default=False)],
    images_dir: Directory,
    prev_images_dir: PrevImagesDir = None,
    auto_dedup: AutoDedup = False,
    pre_dump_mode: PageModeText = "read",
    page_server: PageServer = False,
    address: Address = LOOPBACK,
    port: Port = None,
    allow_plain_tcp: AllowPlain = False,
    shell_job: ShellJob = False,
    tcp_close: TcpClose = False,
    track_mem: Annotated[bool, typer.Option("--track-mem", hidden=True)] = False,
    verbose: Verbose = 0,
    log_file: LogFile = None,
    leave_running: Annotated[bool, typer.Option("-R", "--leave-running", hidden=True)] = False,
    tcp_established: LaterFlag = False,
    ext_unix_sk: ExtUnixSk = False,
    file_locks: FileLocks = False,
    link_remap: LinkRemap = False,
    ghost_limit: GhostLimit = None,
) -> int:
    """Write the memory of a process that runs on, so that its dump needs to write only what has changed.

    Until a dump with --prev-images-dir, or its end, a small process of ours tracks what it writes.
    """
    refuse_later(tcp_established=tcp_established)
    pid = parse_pid(tree)
    server = parse_page_server(page_server, address, port, allow_plain_tcp)
    start_logging(log_file, verbose, MigrationStamp())
    import core

    options = core.DumpOptions(
        shell_job=shell_job, tcp="close" if tcp_close else "refuse", prev_images_dir=prev_images_dir,
        auto_dedup=auto_dedup, page_mode=_page_mode(pre_dump_mode),
    )  # fmt: skip
    files = FileWishes(ext_unix_sk, file_locks, link_remap, ghost_limit, _job_terminal(shell_job)).parsed()
    _refuse(pid, core.PreflightOptions(options.tcp, shell_job, files=files))
    with page_sink(server) as sink:
        report = core.pre_dump(pid, images_dir, options, sink)
    done = f"Pre-dumped PID {pid} to {images_dir}: {pages_words(report.pages, report.inherited)}. It runs on, tracked."
    say([done, *_notes(report.notices), *_phase_lines(report.phases, verbose)], sys.stdout)
    return ExitCode.DONE


def _page_mode(text: str) -> Literal["read", "splice"]:
    return "splice" if parse_choice("--pre-dump-mode", text, PAGE_MODES) == "splice" else "read"


def pages_words(new: int, inherited: int) -> str:
    """12 pages, 48.0 KiB; 100 more are in the parent."""
    import core

    words = f"{count(new, 'page')}, {size(new * core.PAGE_SIZE)}"
    return f"{words}; {inherited:,} more are in the parent" if inherited else words


def _notes(notices: tuple[str, ...]) -> list[str]:
    return [f"note: {notice}" for notice in notices]


def restore(
    images_dir: Directory,
    detached: Annotated[
        bool, typer.Option("-d", "--restore-detached", help="Return at once instead of waiting for its end.")
    ] = False,
    pidfile: Annotated[
        Path | None, typer.Option("--pidfile", metavar="FILE", help="Write its PID there before it runs; a new file.")
    ] = None,
    shell_job: ShellJob = False,
    auto_dedup: Annotated[
        bool, typer.Option("--auto-dedup", help="Pages leave the images once it runs; DIR cannot be restored again.")
    ] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, operation by operation.")] = False,
    tcp_close: TcpClose = False,
    pid_mode: PidMode = "keep",
    action_script: ActionScript = None,
    verbose: Verbose = 0,
    log_file: LogFile = None,
    tcp_established: LaterFlag = False,
    ext_unix_sk: Needless = False,
    file_locks: Needless = False,
    link_remap: Needless = False,
    restore_sibling: LaterFlag = False,
    evasive_devices: LaterFlag = False,
    leave_stopped: LaterFlag = False,
    manage_cgroups: LaterText = None,
    external: LaterText = None,
    inherit_fd: LaterText = None,
    root: LaterText = None,
) -> int:
    """Start the process whose images are in a directory, with the PID it had."""
    refuse_later(
        tcp_established=tcp_established, restore_sibling=restore_sibling, evasive_devices=evasive_devices,
        leave_stopped=leave_stopped, manage_cgroups=manage_cgroups, external=external, inherit_fd=inherit_fd, root=root,
    )  # fmt: skip
    start_logging(log_file, verbose, MigrationStamp())
    import core

    options = core.RestoreOptions(
        detached, str(pidfile) if pidfile else None, shell_job, "close" if tcp_close else "refuse",
        "namespace" if parse_choice("--pid", pid_mode, PID_CHOICES) == "namespace" else "keep",
        scripts=core.ActionScripts(parse_scripts(action_script)), terminal=_own_terminal() if shell_job else "",
        auto_dedup=auto_dedup,
    )  # fmt: skip
    if plan:
        say([core.plan_text(images_dir, options)], sys.stdout)
        return ExitCode.DONE
    report = core.restore(images_dir, options, _pidfile_writer(pidfile))
    spent = seconds(sum(one for _, one in report.phases))
    say(
        [f"Restored PID {report.pid} in {spent}.", *_notes(report.notices), *_phase_lines(report.phases, verbose)],
        sys.stdout,
    )
    if not detached:
        _wait_for_end(report.child)
    return ExitCode.DONE


def _refuse(pid: int, options: "PreflightOptions") -> None:
    """Refused with every reason that `migrate check` would find here and that speaks against a dump too."""
    import core

    blockers = core.collect_facts(pid, options).blockers
    if against := [one for one in blockers if one.code not in ONLY_AGAINST_MOVING]:
        raise Refused(against)


def _phase_lines(phases: tuple[tuple[str, float], ...], verbose: int) -> list[str]:
    return [f"  {name:<12} {spent * 1e3:8.1f} ms" for name, spent in phases] if verbose else []


def _job_terminal(shell_job: bool) -> str | None:
    """What stands in for the terminal of a shell's job: that of whoever restores it."""
    return "/dev/tty" if shell_job else None


def _own_terminal() -> str:
    """Path of the terminal that we are started from; "" without one."""
    return next((os.ttyname(fd) for fd in (0, 1, 2) if os.isatty(fd)), "")


def _pidfile_writer(path: Path | None) -> Callable[[int], None] | None:
    """Writes a new file while the process cannot run yet: when that fails, nothing is started."""
    if path is None:
        return None

    def write(pid: int) -> None:
        try:
            with open(path, "x") as file:
                file.write(f"{pid}\n")
        except OSError as error:
            raise UsageError(f"--pidfile {path}: cannot be written: {error.strerror}") from error

    return write


def _wait_for_end(pid: int) -> None:
    """Blocks until the process ends; Ctrl-C only ends the waiting."""
    with contextlib.suppress(ChildProcessError, KeyboardInterrupt):
        os.waitpid(pid, 0)
