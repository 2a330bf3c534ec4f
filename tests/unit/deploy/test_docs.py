"""What the documents say can be done, can be done: their links lead somewhere, their commands are understood."""

import re
import shlex
from pathlib import Path

import pytest

from migrate.api.app import ROUTES
from migrate.api.openapi import document
from migrate.api.reference import reference
from migrate.cli.commands import COMMANDS, MOVE, choose, main
from migrate.cli.manual import command_of

ROOT = Path(__file__).resolve().parents[3]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_api_reference_is_of_this_api() -> None:
    assert (ROOT / "docs/api.md").read_text() == reference(document(ROUTES)), (
        "python -m migrate.api.reference >docs/api.md"
    )


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        there = page if not name else page.parent / name
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def spoken_commands(page: Path) -> list[list[str]]:
    """Every `migrate …` in a code span or an indented block, as words."""
    text = page.read_text()
    found = re.findall(r"`((?:sudo -n )?migrate [^`]+)`", text)
    found += [line.partition("#")[0] for line in re.findall(r"(?m)^ {4}(migrate .+)$", text)]
    return [shlex.split(line.removeprefix("sudo -n "))[1:] for line in found]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_and_option_that_is_told_of_is_understood(page: Path) -> None:
    for words in spoken_commands(page):
        if words[0] in ("…", "agent", "dest") or "/" in words[0]:
            continue
        name, _rest = choose(["1" if words[0] in ("PID", "PID…") else words[0], *words[1:]])
        known = {option for each in command_of(COMMANDS.get(name, MOVE)).params for option in getattr(each, "opts", ())}
        options = {word.split("=")[0] for word in words if re.fullmatch(r"-\w|--[\w-]+(=.*)?", word)}
        assert options <= known | {"--version", "--help", "--"}, f"{' '.join(words)}: {options - known}"


def test_what_is_said_to_be_refused_yet_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    [row] = [line for line in (ROOT / "docs/from-criu.md").read_text().splitlines() if "`--external`" in line]
    options = re.findall(r"`(--[\w-]+)`", row)
    assert len(options) == 7
    for option in options:
        command = (
            ["restore", "-D", "x"]
            if option in ("--inherit-fd", "--restore-sibling")
            else ["dump", "-t", "1", "-D", "x"]
        )
        for value in ([], ["y"]):
            with pytest.raises(SystemExit) as ended:
                main([*command, option, *value])
            assert ended.value.code == 2
        said = capsys.readouterr().err
        assert f"{option}: not carried yet" in said, said
