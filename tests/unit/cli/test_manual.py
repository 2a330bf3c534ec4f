"""migrate(8) tells of everything that the command line takes."""

import re

from migrate.cli.commands import COMMANDS
from migrate.cli.manual import man_page

REQUESTS = {"TH", "SH", "SS", "TP", "PP", "BR", "nf", "fi"}


def test_every_command_and_option_is_in_the_manual() -> None:
    page = man_page()
    for name, command in COMMANDS.items():
        shown = f".SS migrate {name.replace('-', chr(92) + '-')}\n" in page
        assert shown == bool(command.summary), name
    words = re.sub(r"\\f[BIP]|\\", "", page)
    for option in (
        "--max-downtime TIME",
        "-D, --images-dir DIR",
        "--on-failure skip|stop|back",
        "--hooks DIR",
        "--bin DIR",
    ):
        assert f"\n{option}\n" in words, option
    assert "--id ID" in words and "--keep-source-on-failure" not in words


def test_no_line_of_text_is_taken_for_a_request() -> None:
    begun = {line[1:].split()[0] for line in man_page().splitlines() if line[:1] in (".", "'")}
    assert begun <= REQUESTS


def test_the_exit_codes_and_variables_are_told() -> None:
    page = man_page()
    assert all(f"\\fB{code}\\fP" in page for code in "01234") and "MIGRATE\\_STATE" not in page
    assert "MIGRATE_SERVER" in page
