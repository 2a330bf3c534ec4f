import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import MigrateError, Refused, UsageError
from migrate.cli import logs
from migrate.cli.logs import MigrationStamp, keep_traceback, start_logging
from migrate.cli.watch import ExitCode, View, Watch, watch
from migrate.errors import HostUnreachable
from migrate.events import Blocked, Event, Failed, InDoubt, Phase, PhaseStarted
from tests.unit.cli.script import BLOCKED, DOUBT, STARTED, events


@pytest.fixture(autouse=True)
def logging_is_put_back() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def watching(*shown: Event) -> tuple[Watch, list[Event]]:
    seen: list[Event] = []
    result = Watch([seen.append], None, MigrationStamp())
    for event in shown:
        result.emit(event)
    return result, seen


@pytest.mark.parametrize(("ending", "code"), [("done", 0), ("failed", 1), ("blocked", 3), ("doubt", 4)])
def test_the_last_event_is_the_exit_code(ending: str, code: int) -> None:
    assert watching(*events(ending))[0].finish() == code


@pytest.mark.parametrize(
    ("phase", "code"), [(Phase.CONNECT, 3), (Phase.PREFLIGHT, 3), (Phase.AGREE, 1), (Phase.FREEZE, 1)]
)
def test_a_failure_is_a_refusal_until_something_is_touched(
    phase: Phase, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    one, _ = watching(STARTED, PhaseStarted(phase, 0), Failed("host-b: unreachable", "is it up?", "HostUnreachable"))
    assert one.finish() == code
    said = capsys.readouterr().err
    assert "host-b: unreachable" in said and "→ is it up?" in said
    assert ("Nothing was touched" in said) == (code == 3)


def test_what_was_touched_stays_touched() -> None:
    order = (Phase.CONNECT, Phase.PREFLIGHT, Phase.AGREE, Phase.ROLL_BACK)
    one, _ = watching(STARTED, *(PhaseStarted(phase, 0) for phase in order), Failed("x", None, "GaveUp"))
    assert one.finish() == ExitCode.FAILED


def test_an_error_that_no_event_told_becomes_one() -> None:
    one, seen = watching(STARTED)
    one.fail(Refused(BLOCKED.blockers))
    assert seen[-1] == Blocked(BLOCKED.blockers)
    two, seen = watching(STARTED)
    two.fail(HostUnreachable("host-b: no route", hint="is it up?"))
    assert seen[-1] == Failed("host-b: no route", "is it up?", "HostUnreachable")


def test_an_error_after_the_last_event_is_not_told_twice() -> None:
    one, seen = watching(STARTED, DOUBT)
    one.fail(MigrateError("again"))
    assert seen[-1] == DOUBT and one.finish() == ExitCode.IN_DOUBT


def test_a_bug_after_the_hand_over_began_is_doubt_and_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "TRACEBACK_DIRECTORIES", (str(tmp_path),))
    one, seen = watching(STARTED, PhaseStarted(Phase.HAND_OVER, 0))
    assert not one.can_turn_back
    one.doubt(ValueError("boom"))
    assert isinstance(seen[-1], InDoubt) and seen[-1].command == "migrate resolve 7f3a9c21"
    assert one.finish() == ExitCode.IN_DOUBT


def test_events_are_appended_to_the_file_while_the_display_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.json"
    path.write_text("")
    with watch(View(events_file=path)) as one:
        for event in events("done"):
            one.emit(event)
    names = [json.loads(line)["event"] for line in path.read_text().splitlines()]
    assert names[0] == "started" and names[-1] == "done"
    assert "Done: PID 4711" in capsys.readouterr().out


def test_files_that_cannot_be_written_are_usage_errors(tmp_path: Path) -> None:
    for view in (View(events_file=tmp_path / "no/file"), View(log_file=tmp_path / "no/file")):
        with pytest.raises(UsageError, match="cannot be written"), watch(view):
            pass


def test_log_records_are_json_and_carry_the_migration(tmp_path: Path) -> None:
    path, stamp = tmp_path / "log", MigrationStamp()
    start_logging(path, 0, stamp)
    stamp.migration_id = "7f3a9c21"
    logging.getLogger("migrate.source").warning("keeper: %s", "gone")
    record = json.loads(path.read_text().splitlines()[-1])
    assert (record["event"], record["level"], record["migration"]) == ("keeper: gone", "warning", "7f3a9c21")
    assert record["logger"] == "migrate.source" and record["timestamp"]


def test_without_a_log_file_warnings_do_not_disturb_the_display(capsys: pytest.CaptureFixture[str]) -> None:
    start_logging(None, 0, MigrationStamp())
    logging.getLogger("migrate.source").warning("keeper gone")
    assert capsys.readouterr().err == ""


def test_a_traceback_is_kept_where_it_is_said_to_be(tmp_path: Path) -> None:
    try:
        raise ValueError("boom")
    except ValueError as error:
        path = tmp_path / "log"
        start_logging(path, 0, MigrationStamp())
        assert keep_traceback(error, path) == str(path)
    assert "ValueError: boom" in path.read_text()
