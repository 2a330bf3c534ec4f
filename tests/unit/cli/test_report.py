from core.errors import Blocker
from migrate.cli.report import doubt_lines, failure_lines, refusal_lines, table_lines, untouched_lines
from migrate.events import Failed
from tests.unit.cli.script import BLOCKED, DOUBT, FAILED


def test_a_refusal_names_every_blocker_with_subject_reason_and_hint() -> None:
    text = "\n".join(refusal_lines(BLOCKED.blockers, 200))
    assert text.startswith("migrate: refused, 4 reasons; nothing was touched\n")
    for blocker in BLOCKED.blockers:
        assert blocker.subject in text and blocker.reason in text and str(blocker.hint) in text


def test_reasons_stand_below_each_other() -> None:
    lines = refusal_lines([Blocker("a", "fd 7", "is strange"), Blocker("b", "pid 4711", "is gone")])
    assert lines[1:] == ["  fd 7      is strange", "  pid 4711  is gone"]


def test_one_hint_for_several_blockers_is_said_once_after_the_last() -> None:
    lines = refusal_lines(BLOCKED.blockers, 200)
    assert [line.strip()[:13] for line in lines[1:4]] == ["fd 9 (socket:", "fd 10 (socket", "→ --tcp close"]


def test_long_reasons_wrap_in_their_column_and_paths_stay_whole() -> None:
    path = "/srv/a-rather-long-directory/with/a/file/in/it.db"
    lines = refusal_lines([Blocker("f", path, "differs: " + "word " * 30), Blocker("p", "pid 1", "is init")], 60)
    assert f"  {path}" in lines
    assert all(len(line) <= 60 for line in lines)


def test_a_blocker_without_a_reason_is_still_named() -> None:
    assert refusal_lines([Blocker("x", "fd 7", "")])[1].strip() == "fd 7"


def test_a_failure_says_that_the_process_runs_on() -> None:
    assert failure_lines(FAILED, 4711)[-1] == "  PID 4711 runs on here, unharmed."
    stopped = Failed("restore: op 3", None, "RestoreError", 0.25)
    assert failure_lines(FAILED, 4711, has_ended=True)[-1] == "  PID 4711 has ended meanwhile."
    assert failure_lines(stopped, 4711)[-1] == "  PID 4711 runs on here, unharmed; it stood still for 250 ms."


def test_a_failure_before_anything_was_touched_is_a_refusal() -> None:
    assert untouched_lines(FAILED)[0].startswith("migrate: refused: ")


def test_doubt_names_both_copies_and_the_one_command() -> None:
    text = "\n".join(doubt_lines(DOUBT))
    assert DOUBT.source in text and DOUBT.destination in text
    assert "\n      migrate resolve 7f3a9c21\n" in text


def test_tables_are_aligned() -> None:
    assert table_lines(("ID", "PID"), [("abc", "1")]) == ["ID   PID", "abc  1"]
