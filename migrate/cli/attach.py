"""`migrate attach [ID]`: the terminal that a moved process was given here (`--tty new`)."""

import sys
from typing import Annotated

import typer

from core.errors import MigrateError, UsageError
from migrate.cli.parse import parse_id
from migrate.cli.watch import ExitCode, say
from migrate.journal import Journal
from migrate.terminal.viewer import Left, view

HINT = "migrate PID user@host --tty new makes one over there"


def attach(
    migration_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Of the migration that brought it.", show_default=False)
    ] = None,
) -> int:
    """Go to the terminal of a process that was moved here with `--tty new`. Ctrl-\\ leaves it, and the process runs on.

    Without ID: the only one there is.
    """
    journal = Journal.default()
    known = sorted(path.stem for path in journal.terminal_path("x").parent.glob("*.sock"))
    name = parse_id("ID", migration_id) if migration_id else _only(known)
    if name not in known:
        raise MigrateError(f"{name}: no terminal of that migration is kept here", hint=HINT)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("attach: needs a terminal", hint="over SSH: ssh -t HOST migrate attach")
    try:
        left = view(journal.terminal_path(name), sys.stdin.fileno(), sys.stdout.fileno())
    except OSError as error:
        gone = f"{name}: nobody keeps its terminal any more: {error.strerror}"
        raise MigrateError(gone, hint="its process has ended, or moved on") from error
    runs_on = f"Left {name}; it runs on. migrate attach {name} comes back."
    say([runs_on if left is Left.DETACHED else f"{name} has ended."], sys.stdout)
    return ExitCode.DONE


def _only(known: list[str]) -> str:
    if not known:
        raise MigrateError("no terminal of a moved process is kept here", hint=HINT)
    if len(known) > 1:
        raise UsageError(f"several terminals are kept here: {', '.join(known)}", hint=f"migrate attach {known[0]}")
    return known[0]
