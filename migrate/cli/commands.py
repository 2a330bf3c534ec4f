"""`main` picks the command, runs it, and turns every error into words and an exit code.

Owns the list of commands. Each is imported when it is called, so that `migrate dest` starts quickly.
"""

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import MigrateError, Refused, UsageError
from migrate.cli.incomplete import tell_incomplete

if TYPE_CHECKING:
    import typer

HELP_OPTIONS = ("-h", "--help")
EXIT_CODES = """Exit codes:
  0  done
  1  failed; the process runs on here, unharmed
  2  wrong usage
  3  refused before anything was touched; every reason is named, with a hint
  4  in doubt; told is where both copies stand, and what settles it"""


@dataclass(frozen=True, slots=True)
class Command:
    """A command: where its function is, and one line about it; none for commands that only we ourselves call."""

    module: str
    function: str
    summary: str = ""


MOVE = Command("move", "move")
COMMANDS = {
    "check": Command("move", "check", "Name everything that would be in the way; touch nothing."),
    "attach": Command("attach", "attach", "Go to the terminal of a process that was moved here with --tty new."),
    "status": Command("settle", "status", "List the migrations this host took part in."),
    "resolve": Command("settle", "resolve", "Settle a migration that was left in the middle."),
    "dump": Command("images", "dump", "Write a process into a directory of images."),
    "pre-dump": Command("images", "pre_dump", "Write the memory of a process that runs on, ahead of its dump."),
    "page-server": Command("page_server", "page_server", "Take the pages of a dump over a connection."),
    "restore": Command("images", "restore", "Start a process from a directory of images."),
    "features": Command("features", "features", "Tell what this kernel can do for us."),
    "serve": Command("serve", "serve", "Serve the HTTP API and the dashboard, and work on migrations and drains."),
    "drain": Command("fleet", "drain", "Empty a host: everything on it moves elsewhere (asks a server)."),
    "hosts": Command("fleet", "hosts", "List, add, cordon and uncordon hosts (asks a server)."),
    "bootstrap": Command("install", "bootstrap", "Install this version on another host over SSH."),
    "bundle": Command("install", "bundle", "Write this version into one file, to be installed without SSH."),
    "dest": Command("dest", "dest"),
    "agent": Command("agent", "agent"),
    "manual": Command("manual", "manual"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = run(argv)
    except UsageError as error:
        code = _end(2, "usage", error, argv)
    except Refused as error:
        code = _end(3, "refused", error, argv)
    except MigrateError as error:
        code = _end(1, "failed", error, argv)
    except KeyboardInterrupt:
        sys.stderr.write("\nmigrate: interrupted; what had been begun is undone, the process runs on\n")
        code = 1
    except BrokenPipeError:
        code = 1
    except Exception as error:  # noqa: BLE001 a person gets a sentence and a file, never a traceback
        code = _internal(error, argv)
    sys.exit(code)


def run(argv: list[str]) -> int:
    """The exit code of the command that `argv` names."""
    if "--version" in argv[:1]:
        from migrate.messages import VERSION

        sys.stdout.write(f"migrate {VERSION}\n")
        return 0
    name, rest = choose(argv)
    command = COMMANDS[name] if name else MOVE
    function = getattr(importlib.import_module(f"migrate.cli.{command.module}"), command.function)
    return call(function, rest, f"migrate {name}" if name else "migrate", "" if name else overview())


def choose(argv: list[str]) -> tuple[str, list[str]]:
    """The command's name and its arguments; "" is the main job, which has no name: `migrate PID host`."""
    if not argv:
        return "", [HELP_OPTIONS[0]]
    first, rest = argv[0], argv[1:]
    if first in COMMANDS:
        return first, rest
    if first[:1].isdigit() or first.startswith("-"):
        return "", argv
    close = get_close_matches(first, [name for name, command in COMMANDS.items() if command.summary])
    hint = f"did you mean `migrate {close[0]}`?" if close else "to move a process: migrate PID [user@]host"
    if rest and rest[0].isdigit():
        hint = f"the PID comes first: migrate {rest[0]} {first}"
    raise UsageError(f"{first!r} is neither a command nor a PID", hint=hint)


def overview() -> str:
    """What stands below the options of the main job: the other commands and the exit codes."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items() if command.summary]
    return "\n".join(["\b", "Other commands:", *lines, "", "\b", EXIT_CODES])


def as_typer(function: Callable[..., int], epilog: str = "") -> "typer.Typer":
    """The program whose only command has the signature of `function`."""
    import typer

    from migrate.cli.usage import PlainUsage

    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    context = {"help_option_names": list(HELP_OPTIONS), "max_content_width": 110}
    app.command(cls=PlainUsage, epilog=epilog, context_settings=context)(function)
    return app


def call(function: Callable[..., int], arguments: list[str], name: str, epilog: str) -> int:
    """Parse `arguments` as the signature of `function` says, and call it."""
    import typer

    app = as_typer(function, epilog)
    try:
        return int(app(arguments, prog_name=name, standalone_mode=False) or 0)
    except typer.TyperException as error:
        raise UsageError(plain(error.format_message())) from error


def plain(message: str) -> str:
    """What the parser of the command line says, in our words."""
    said = message.rstrip(".")
    if match := re.fullmatch(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", said):
        return f"{match[1]}: more than is taken here"
    if match := re.fullmatch(r"No such option: (\S+)(?: \(?(?:Possible options:|Did you mean) (.*?)\)?\??)?", said):
        return f"{match[1]}: there is no such option" + (f"; there is {match[2]}" if match[2] else "")
    if match := re.fullmatch(r"Missing argument '(.*)'", said):
        return f"{match[1]}: is missing"
    if match := re.fullmatch(r"Option '(.*)' requires an argument", said):
        return f"{match[1]}: its value is missing"
    return said


def _end(code: int, how: str, error: MigrateError, argv: list[str]) -> int:
    from migrate.cli import report
    from migrate.cli.watch import say, terminal_width

    match how:
        case "usage":
            named = argv[0] if argv and argv[0] in COMMANDS else ""
            say(report.usage_lines(error.message, error.hint, f"migrate {named}".strip()))
        case "refused" if isinstance(error, Refused):
            say(report.refusal_lines(error.blockers, terminal_width()))
        case _:
            say([f"migrate: {how}: {error.message}", *report.hint_lines(error.hint)])
    return code


def _internal(error: Exception, argv: list[str]) -> int:
    from migrate.cli.logs import keep_traceback

    if isinstance(error, ImportError):
        return tell_incomplete(error)
    named = next((argv[at + 1] for at, word in enumerate(argv[:-1]) if word == "--log-file"), None)
    place = keep_traceback(error, Path(named) if named else None)
    sys.stderr.write(f"migrate: internal error: {type(error).__name__}: {error}; details in {place}\n")
    return 1
