"""The options that several commands share, spelled and explained once. What they mean is parse.py's."""

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from core.errors import UsageError

PidText: TypeAlias = Annotated[str, typer.Argument(metavar="PID", hidden=True)]
HostText: TypeAlias = Annotated[str, typer.Argument(metavar="[user@]host[:port]", hidden=True)]
IdText: TypeAlias = Annotated[str, typer.Argument(metavar="ID", hidden=True)]

Key: TypeAlias = Annotated[
    list[Path] | None, typer.Option("-i", "--identity", metavar="KEY", help="SSH key file; may be repeated.")
]
KnownHosts: TypeAlias = Annotated[
    Path | None, typer.Option("--known-hosts", metavar="FILE", help="Instead of ~/.ssh/known_hosts.")
]
RemoteCommand: TypeAlias = Annotated[
    str,
    typer.Option(
        "--remote-command",
        metavar="COMMAND",
        help="What starts migrate over there, for example 'sudo -n migrate'.",
        show_default=True,
    ),
]
Tcp: TypeAlias = Annotated[
    str,
    typer.Option(
        "--tcp",
        metavar="refuse|close",
        help="Established TCP connections: refuse to move, or close them.",
        show_default=True,
    ),
]
PidMode: TypeAlias = Annotated[
    str,
    typer.Option(
        "--pid", metavar="keep|namespace", help="Same PID over there, or a PID namespace of its own.", show_default=True
    ),
]
Shared: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--shared", metavar="PATH", help="Both hosts have the same files below PATH; may be repeated."),
]
ShellJob: TypeAlias = Annotated[
    bool, typer.Option("-j", "--shell-job", help="Leave the session leader or the terminal behind.")
]
CpuCheck: TypeAlias = Annotated[
    str,
    typer.Option(
        "--cpu-check",
        metavar="ins|fpu",
        help="What the other processor must have: registers and instructions, or the registers alone.",
        show_default=True,
    ),
]
Tty: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--tty",
        metavar="new|PATH",
        help="Give it a terminal over there in place of the one here: a new one for `migrate attach`, or that at PATH.",
    ),
]

ActionScript: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--action-script",
        metavar="FILE",
        help="Call FILE at each moment that criu(8) names (CRTOOLS_SCRIPT_ACTION); may be repeated.",
    ),
]

ExtUnixSk: TypeAlias = Annotated[
    bool, typer.Option("--ext-unix-sk", help="Connect datagram sockets anew whose peer stays behind.")
]
FileLocks: TypeAlias = Annotated[bool, typer.Option("--file-locks", help="Carry file locks and leases.")]
LinkRemap: TypeAlias = Annotated[
    bool, typer.Option("--link-remap", help="Give open files that lost their name, but not their last, one beside it.")
]
GhostLimit: TypeAlias = Annotated[
    str | None, typer.Option("--ghost-limit", metavar="SIZE", help="Refuse deleted files that are larger: 10M.")
]
SyncFiles: TypeAlias = Annotated[
    str,
    typer.Option(
        "--sync-files",
        metavar="none|missing|changed",
        help="Copy its files that the other host lacks, or has otherwise.",
        show_default=True,
    ),
]
Needless: TypeAlias = Annotated[bool, typer.Option(hidden=True)]  # criu(8) wants to be told; we take what is there

Verbose: TypeAlias = Annotated[
    int, typer.Option("-v", "--verbose", count=True, help="Tell more; -vv also what is logged.", show_default=False)
]
LogFile: TypeAlias = Annotated[Path | None, typer.Option("--log-file", metavar="FILE", help="Log as JSON lines.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print events as JSON lines on standard output.")]
EventsFile: TypeAlias = Annotated[
    Path | None, typer.Option("--events-file", metavar="FILE", help="Append the events to FILE, as --json prints them.")
]

LaterText: TypeAlias = Annotated[str | None, typer.Option(hidden=True)]


def refuse_later(**given: object) -> None:
    """UsageError that names every option of `given` that was used: nothing is silently ignored."""
    used = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if used:
        raise UsageError(f"{', '.join(used)}: not carried yet")
