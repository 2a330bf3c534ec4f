"""`migrate manual`: migrate(8) in roff, made of the very signatures that the command line is parsed by."""

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any, Final

from typer.main import get_command

from migrate.cli.commands import COMMANDS, EXIT_CODES, MOVE, Command, as_typer
from migrate.cli.watch import ExitCode, say
from migrate.messages import VERSION

ENVIRONMENT: Final = {
    "MIGRATE_SERVER": "the coordinator that status, drain and hosts ask; without it status tells of this host",
    "MIGRATE_TOKEN": "the token that it is asked with",
    "MIGRATE_STATE_DIR": "where journals are, instead of /var/lib/migrate",
    "SSH_AUTH_SOCK": "the SSH agent; under sudo that of the caller",
}
FILES: Final = {
    "~/.ssh/config, ~/.ssh/known_hosts, ~/.ssh/id_*": "as ssh(1) uses them; host keys are checked strictly",
    "/var/lib/migrate": "journals: who holds the copy that runs",
    "/etc/migrate/inventory.toml": "hosts and workloads of the coordinator, as the unit starts it",
    "/etc/migrate/hooks": "files that drains call, as the unit starts it",
}


def manual() -> int:
    """Print the manual page."""
    say([man_page().rstrip("\n")], sys.stdout)
    return ExitCode.DONE


def man_page() -> str:
    """All of migrate(8)."""
    listed = {name: command for name, command in COMMANDS.items() if command.summary}
    lines = [
        f'.TH MIGRATE 8 "" "migrate {VERSION}" "System Administration"',
        ".SH NAME", r"migrate \- move running processes to another host",
        ".SH SYNOPSIS", ".nf", *(_usage(name, command) for name, command in {"": MOVE, **listed}.items()), ".fi",
        ".SH DESCRIPTION", *_prose(command_of(MOVE).help or ""),
        ".SH OPTIONS", *_options(MOVE),
        ".SH COMMANDS",
    ]  # fmt: skip
    for name, command in listed.items():
        lines += [f".SS migrate {_roff(name)}", *_prose(command_of(command).help or ""), *_options(command)]
    codes = [line.split(None, 1) for line in EXIT_CODES.splitlines()[1:]]
    lines += [".SH EXIT STATUS", *_table({code: meaning for code, meaning in codes})]
    lines += [".SH ENVIRONMENT", *_table(ENVIRONMENT), ".SH FILES", *_table(FILES)]
    lines += [".SH SEE ALSO", ".BR ssh (1), criu (8), systemd (1)"]
    return "\n".join(lines) + "\n"


def command_of(command: Command) -> Any:
    """The command as typer's own click has it."""
    function = getattr(importlib.import_module(f"migrate.cli.{command.module}"), command.function)
    return get_command(as_typer(function))


def _usage(name: str, command: Command) -> str:
    arguments = [each for each in command_of(command).params if each.param_type_name == "argument"]
    words = [each.metavar if each.required or each.metavar[0] == "[" else f"[{each.metavar}]" for each in arguments]
    return " ".join([rf"\fB{_roff(f'migrate {name}'.strip())}\fP", *map(_roff, words), "[OPTIONS]"])


def _options(command: Command) -> Iterator[str]:
    for option in command_of(command).params:
        if option.param_type_name == "argument" or option.hidden:
            continue
        words = ", ".join(rf"\fB{_roff(word)}\fP" for word in [*option.opts, *option.secondary_opts])
        value = "" if option.is_flag or option.count else rf" \fI{_roff(option.metavar or 'TEXT')}\fP"
        usual = f" [{option.default}]" if option.show_default and option.default and not option.is_flag else ""
        yield from (".TP", words + value, _line((option.help or "") + usual))


def _prose(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip())):
        yield from ([".PP"] if number else [])
        yield _line(" ".join(paragraph.split()))


def _table(rows: dict[str, str]) -> Iterator[str]:
    for name, meaning in rows.items():
        yield from (".TP", rf"\fB{_roff(name)}\fP", _line(meaning))


def _line(text: str) -> str:
    """A text line: one that begins with a dot would be a request."""
    found = _roff(text)
    return r"\&" + found if found[:1] in (".", "'") else found


def _roff(text: str) -> str:
    return text.replace("\\", r"\e").replace("-", r"\-").replace("→", r"\(->").replace("…", "...").replace("–", r"\(en")
