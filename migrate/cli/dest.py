"""`migrate dest`: started over SSH by the other host's migrate, never by a person. Standard output is the protocol's.

Nothing here may print there. Leaves when its standard input ends: sshd sends no SIGHUP without a terminal.
"""

import os
import stat
from typing import Annotated

import typer

from core.errors import UsageError
from migrate.cli.logs import MigrationStamp, start_logging
from migrate.cli.watch import ExitCode

Internal = Annotated[str | None, typer.Option(metavar="ID")]
STDIN_FD, STDOUT_FD = 0, 1


def dest(attach: Internal = None, pages: Internal = None) -> int:
    """The destination's end of an SSH connection. Not for people: `migrate PID host` starts it over there."""
    if attach and pages:
        raise UsageError("--attach and --pages: only one of them")
    modes = [os.fstat(fd).st_mode for fd in (STDIN_FD, *(() if pages else (STDOUT_FD,)))]
    if not all(stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) for mode in modes):  # sshd's; others cannot be waited for
        hint = "to move a process: migrate PID [user@]host"
        raise UsageError("dest: is started over SSH by the other host, not by a person", hint=hint)
    start_logging(None, 0, MigrationStamp())
    from migrate import wiring

    if pages:
        wiring.serve_pages(pages, STDIN_FD)
    else:
        wiring.serve_stdio(attach)
    return ExitCode.DONE
