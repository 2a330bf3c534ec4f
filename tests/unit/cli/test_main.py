import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.errors import Blocker, ImageError, Refused, UsageError
from migrate.agent import Jobs
from migrate.cli import commands
from migrate.cli.commands import COMMANDS, choose, main
from migrate.journal import Entry, Journal, Role
from migrate.machine import CopyState, State


def outcome(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(commands, "run", fail)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["4711", "host-b"], ""), (["-i", "key", "4711", "host-b"], ""), (["--json", "4711", "host-b"], ""), ([], ""),
        (["--help"], ""), (["check", "4711", "host-b"], "check"), (["dest", "--attach", "x"], "dest"),
    ],
)  # fmt: skip
def test_the_main_job_needs_no_verb(argv: list[str], name: str) -> None:
    assert choose(argv)[0] == name


def test_a_word_that_is_no_command_gets_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(["resolv", "x"]) == 2
    assert "did you mean `migrate resolve`?" in capsys.readouterr().err
    assert outcome(["host-b", "4711"]) == 2
    assert "migrate 4711 host-b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["4711"], "[user@]host[:port]: is missing"),
        (["4711", "host-b", "--nonsense"], "--nonsense: there is no such option"),
        (["4711", "host-b", "--sync-file"], "--sync-file: there is no such option; there is"),
        (["4711", "host-b", "more"], "more: more than is taken here"),
        (["4711", "host-b", "--deadline"], "--deadline: its value is missing"),
        (["4711", "host-b", "--action-script", "/nope"], "--action-script /nope: there is no such file"),
        (["hosts", "add", "a"], "hosts add a: is not complete, or no question"),
        (["hosts", "add", "a", "b", "--label", "=x"], "label '=x': is not K=V"),
        (["hosts", "add", "a", "u@"], "address: 'u@': the host name is empty"),
        (["drain", "a b"], "host: 'a b' is not a name: names are letters"),
        (["drain", "a", "--to", "b c"], "to: 'b c' is not a name: names are letters"),
        (["drain", "a", "--deadline", "5"], "deadline: '5' is not a time; write a number with its unit"),
        (["drain", "a", "--server", "nonsense"], "--server nonsense: is not the URL of a server"),
        (["4711", "host-b", "--deadline", "5"], "--deadline: '5' is not a time"),
        (["4711", "host-b", "--move-address", "10.0.0.1/eth0"], "--move-address: not carried yet"),
        (["4711", "host-b", "--tcp", "established"], "--tcp established: not carried yet"),
        (["check", "x7", "host-b"], "PID: 'x7' is not a process id"),
        (["dump", "-t", "1", "-D", ".", "--leave-stopped", "--root", "x"], "--leave-stopped, --root: "),
        (["dump", "-t", "1"], "Missing option '-D' / '--images-dir'"),
        (["restore", "-D", ".", "--tcp-established", "--external", "x"], "--tcp-established, --external: not"),
        (["resolve", "../../etc/passwd"], "is not a migration's id"),
        (["4711", "host-b", "--id", "../x"], "--id: '../x' is not a migration's id"),
        (["dest", "--attach", "a", "--pages", "b"], "only one of them"),
    ],
)  # fmt: skip
def test_wrong_usage_names_the_word(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = outcome(argv)
    said = capsys.readouterr()
    assert words in said.err and said.out == "" and "Traceback" not in said.err
    assert code == 2


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome([*([name] if name else []), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: migrate {name}".rstrip())
    assert "{" not in text


def test_the_help_lists_commands_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome([]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name, command in COMMANDS.items() if command.summary)
    assert "3  refused before anything was touched" in text
    assert "  dest " not in text


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(["--version"]) == 0
    assert capsys.readouterr().out.startswith("migrate 0.")


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("--x: wrong", hint="try y"), 2, "→ try y"),
        (Refused([Blocker("pid-gone", "pid 7", "does not exist", "see ps")]), 3, "pid 7  does not exist"),
        (ImageError("core-7.img", "is truncated", hint="dump again"), 1, "migrate: failed: core-7.img: is truncated"),
        (KeyboardInterrupt(), 1, "interrupted"),
    ],
)
def test_errors_are_words_and_an_exit_code(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(error, monkeypatch)
    assert outcome(["status"]) == code
    assert words in capsys.readouterr().err


def test_a_bug_is_a_sentence_and_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("migrate.cli.logs.TRACEBACK_DIRECTORIES", (str(tmp_path / "missing"), str(tmp_path)))
    failing(ZeroDivisionError("division by zero"), monkeypatch)
    assert outcome(["status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("migrate: internal error: ZeroDivisionError: division by zero; details in ")
    assert "Traceback" not in said
    assert "ZeroDivisionError" in Path(said.split("details in ")[1].strip()).read_text()


def entry(role: Role, state: str) -> Entry:
    one = Entry("7f3a9c21", role, state, 4711, 5, "boot", peer="root@host-b")
    return one.entered(state)


def test_status_lists_migrations_and_what_settles_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIGRATE_STATE_DIR", str(tmp_path))
    assert outcome(["status"]) == 0
    assert capsys.readouterr().out == "This host knows of no migration.\n"
    Journal(tmp_path).write(entry(Role.SOURCE, State.IN_DOUBT))
    assert outcome(["status"]) == 0
    text = capsys.readouterr().out
    assert "7f3a9c21" in text and "IN_DOUBT" in text and "→ settle it: migrate resolve 7f3a9c21" in text
    assert outcome(["status", "7f3a9c21"]) == 0
    assert "source of PID 4711" in capsys.readouterr().out
    assert outcome(["status", "other"]) == 1
    assert "no such migration" in capsys.readouterr().err


def test_status_says_why_a_move_was_rolled_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIGRATE_STATE_DIR", str(tmp_path))
    journal = Journal(tmp_path)
    journal.write(entry(Role.SOURCE, State.PRECOPY))
    journal.roll_back("7f3a9c21", "on host-b: disk: full → make room")
    journal.roll_back("7f3a9c21", "its coordinator hung up")  # an effect of the first
    assert outcome(["status", "7f3a9c21"]) == 0
    assert "  rolled back: on host-b: disk: full → make room\n" in capsys.readouterr().out
    (journal.make_directory("jobs") / "7f3a9c21.events").touch()
    told = list(Jobs(journal).follow("7f3a9c21", 0))  # what the API and the dashboard have it from
    assert json.loads(told[-1])["message"] == "on host-b: disk: full → make room"


def test_resolve_on_the_wrong_side_names_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MIGRATE_STATE_DIR", str(tmp_path))
    Journal(tmp_path).write(entry(Role.DESTINATION, CopyState.READY))
    assert outcome(["resolve", "7f3a9c21"]) == 2
    assert "is settled by its source, root@host-b" in capsys.readouterr().err


def test_help_does_not_load_what_only_a_migration_needs() -> None:
    code = (
        "import sys; sys.argv = ['migrate', '--help']\n"
        "from migrate.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'asyncssh', 'structlog', 'rich.live'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr


def test_dest_started_by_a_person_ends_at_once() -> None:
    argv = [sys.executable, "-c", "from migrate.cli import main; main()", "dest"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stdout == ""
    assert "is started over SSH by the other host" in done.stderr


def test_an_incomplete_installation_is_a_sentence() -> None:
    code = "import sys; sys.modules['core.native._kernel'] = None; from migrate.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "features"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("migrate: is not installed completely: ") and "Traceback" not in done.stderr
