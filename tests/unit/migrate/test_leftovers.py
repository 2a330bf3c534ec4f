"""What takes a process's place over there may be what an earlier migration of it left: it is said what removes that."""

from dataclasses import replace
from pathlib import Path

import pytest

from core.errors import Blocker
from migrate.journal import Entry, Journal, Role, Step, read_boot_id
from migrate.machine import State
from migrate.resolve import name_leftovers
from migrate.world import MigrationRequest

TAKEN = Blocker("pid-taken", "pid 7 (redis)", "is taken on host-b", "--pid namespace", of_destination=True)
OTHER = Blocker("file-missing", "/x", "is missing on host-b", "copy it")
REQUEST = MigrationRequest(7, "root@host-b")
LEFT = Entry("aa", Role.SOURCE, State.ROLLED_BACK, 7, 4711, read_boot_id(), peer="root@host-b", steps=(Step("x", 1.0),))


def hints(journal: Journal, *entries: Entry) -> list[str | None]:
    for entry in entries:
        journal.write(entry)
    return [one.hint for one in name_leftovers([TAKEN, OTHER], journal, REQUEST, lambda pid: 4711)]


def test_the_last_migration_that_was_rolled_back_is_named(tmp_path: Path) -> None:
    later = replace(LEFT, id="bb", steps=(Step("x", 2.0),))
    told = "if migration bb left that there, migrate resolve bb removes it; else --pid namespace"
    assert hints(Journal(tmp_path), later, LEFT) == [told, "copy it"]


@pytest.mark.parametrize(
    "changes", [{"peer": "root@host-c"}, {"start_time": 1}, {"state": State.DONE}, {"pid": 8}, {"boot_id": "another"}]
)
def test_one_of_something_else_is_not(changes: dict[str, object], tmp_path: Path) -> None:
    assert hints(Journal(tmp_path), replace(LEFT, **changes)) == ["--pid namespace", "copy it"]  # type: ignore[arg-type]


def test_a_process_that_has_ended_hides_nothing(tmp_path: Path) -> None:
    def ended(pid: int) -> int:
        raise FileNotFoundError(pid)

    Journal(tmp_path).write(LEFT)
    assert name_leftovers([TAKEN], Journal(tmp_path), REQUEST, ended) == [TAKEN]
