"""Journals on disk: whole or not at all, named errors, one migration per target."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import Refused
from migrate.errors import JournalError, OutOfOrder
from migrate.journal import KEPT_S, Entry, Journal, Role, read_boot_id, read_start_time
from migrate.machine import CopyEvent, CopyState, Event, State


def entry(migration_id: str = "a1", state: str = State.IDLE, role: Role = Role.SOURCE) -> Entry:
    route = (("identity_file", "/root/.ssh/id"), ("remote_command", "sudo -n migrate"))
    return Entry(
        migration_id, role, "", 4711, 12345, "boot", peer="root@host-b", route=route, pids=(4711, 4712)
    ).entered(state)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new")
    journal.write(entry())
    assert journal.read("a1", Role.SOURCE) == entry() or journal.require("a1", Role.SOURCE).steps[0].state == "IDLE"
    found = journal.require("a1", Role.SOURCE)
    assert (found.pids, found.route, found.peer) == (entry().pids, entry().route, entry().peer)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_both_roles_of_one_id_have_their_own_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(entry())
    journal.write(entry(state=CopyState.READY, role=Role.DESTINATION))
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["a1.destination.json", "a1.source.json"]
    assert [found.role for found in journal.entries(Role.DESTINATION)] == [Role.DESTINATION]


OLD = time.time() - KEPT_S - 60


def put(journal: Journal, found: Entry, written: float) -> Path:
    journal.write(found)
    path = journal.path(found.id, found.role)
    os.utime(path, (written, written))
    return path


def test_what_is_long_over_is_removed_with_its_log_and_its_lock(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    gone = [
        put(journal, entry("a1", State.DONE), OLD),
        put(journal, entry("a2", State.ROLLED_BACK), OLD),
        put(journal, entry("a3", CopyState.ABORTED, Role.DESTINATION), OLD),
        tmp_path / "a3.destination.lock",
        tmp_path / "pid-boot-4711-12345.lock",
        journal.make_directory("log") / "a1.source.log",
    ]
    for path in gone:
        path.touch() if not path.exists() else None
    journal.prune()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("found", "is_old"),
    [
        (entry("a1", State.DONE), False),
        (entry("a1", State.IN_DOUBT), True),
        (entry("a1", State.FROZEN), True),
        (replace(entry("a1", State.ROLLED_BACK), boot_id=read_boot_id()), True),  # it may have to be thawed still
        (entry("a1", CopyState.RESUMED, Role.DESTINATION), True),  # a source in doubt asks for it
        (entry("a1", CopyState.LOST, Role.DESTINATION), True),
    ],
    ids=lambda value: getattr(value, "state", None),
)
def test_what_somebody_may_have_to_know_of_stays(found: Entry, is_old: bool, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    path = put(journal, found, OLD if is_old else time.time())
    lock = tmp_path / f"pid-{read_boot_id()}-1-2.lock"
    lock.touch()
    journal.prune()
    assert path.exists() and lock.exists()


def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    journal, path = Journal(tmp_path), tmp_path / "a1.source.json"
    path.write_bytes(b"\xff")
    os.utime(path, (OLD, OLD))
    journal.prune()
    assert path.exists()


def test_no_journal_is_none_and_required_is_an_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.read("a1", Role.SOURCE) is None
    with pytest.raises(JournalError, match="no such migration"):
        journal.require("a1", Role.SOURCE)


def test_advance_follows_the_table_and_keeps_the_steps(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(entry())
    journal.advance("a1", Event.AGREED)
    journal.advance("a1", Event.ATTACHED, cgroup="/x/migrate-a1")
    found = journal.require("a1", Role.SOURCE)
    assert (found.state, found.cgroup) == (State.PRECOPY, "/x/migrate-a1")
    assert [step.state for step in found.steps] == ["IDLE", "AGREED", "PRECOPY"]


def test_advance_refuses_what_the_table_does_not_have_and_leaves_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(entry(state=State.HANDED_OVER))
    with pytest.raises(OutOfOrder):
        journal.advance("a1", Event.FROZE)
    assert journal.require("a1", Role.SOURCE).state == State.HANDED_OVER


def test_advance_copy_follows_the_copys_table(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write(entry(state=CopyState.READY, role=Role.DESTINATION))
    assert journal.advance_copy("a1", CopyEvent.RESUME).state == CopyState.RESUMING


def test_a_write_that_fails_leaves_the_old_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path)
    journal.write(entry())

    def no_space(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(JournalError, match="No space left"):
        journal.advance("a1", Event.AGREED)
    assert journal.require("a1", Role.SOURCE).state == State.IDLE
    assert [path.name for path in tmp_path.iterdir()] == ["a1.source.json"]


def test_file_and_directory_are_synced_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    Journal(tmp_path).write(entry())
    assert [path == str(tmp_path) for path in synced] == [False, True]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", '{"format": 1}', '{"format": 99, "id": "a1"}', "\x00" * 64],
    ids=["empty", "cut", "list", "no-format", "null", "no-fields", "other-format", "zeros"],
)
def test_a_corrupt_journal_is_a_named_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a1.source.json").write_text(text)
    with pytest.raises(JournalError, match=r"a1\.source\.json"):
        Journal(tmp_path).read("a1", Role.SOURCE)


@pytest.mark.parametrize(
    ("name", "value"), [("state", "READY"), ("pid", "x"), ("pids", ["1"]), ("steps", [{}]), ("unknown", 1)]
)
def test_a_field_of_another_type_is_a_named_error(tmp_path: Path, name: str, value: object) -> None:
    journal = Journal(tmp_path)
    journal.write(entry())
    path = journal.path("a1", Role.SOURCE)
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(JournalError, match="is not a journal"):
        journal.read("a1", Role.SOURCE)


@pytest.mark.parametrize("bad", ["", "../x", "a/b", ".a", "a.b", "x" * 64, "a\n", "a b"])
def test_an_id_that_could_leave_the_directory_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(JournalError, match="is not a migration's id"):
        Journal(tmp_path).path(bad, Role.SOURCE)


def test_a_target_is_locked_once_and_free_again_afterwards(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.lock_target("boot", 1, 2):
        with pytest.raises(Refused, match="being migrated already"), journal.lock_target("boot", 1, 2):
            pass
        with journal.lock_target("boot", 1, 3):  # another process with the same pid
            pass
    with journal.lock_target("boot", 1, 2):
        pass


def test_a_lock_is_held_as_long_as_whoever_inherited_it_lives(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with journal.lock_target("boot", 1, 2) as fd:
        inherited = os.dup(fd)
    with pytest.raises(Refused), journal.lock_target("boot", 1, 2):
        pass
    os.close(inherited)
    with journal.lock_target("boot", 1, 2):
        pass


def test_start_time_and_boot_name_a_process() -> None:
    assert read_start_time(os.getpid()) > 0
    assert len(read_boot_id()) == 36
