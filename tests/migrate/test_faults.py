"""Whatever dies in the middle, and whenever: exactly one copy runs afterwards, and nothing else is left.

faults/sitecustomize.py stops a keeper at a chosen request; then somebody is killed.
"""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hosts import Host
from tests.hosts.host import HOME, REPOSITORY
from tests.migrate.conftest import make_pair
from tests.migrate.moving import (
    Moving,
    Pair,
    assert_nothing_left,
    assert_runs_on,
    is_frozen,
    moving,
    processes,
    state_of,
)
from tests.program_build import Run
from tests.waiting import wait_until

FAULTS = Path(__file__).with_name("faults")
COMMAND = """#!/bin/sh
. /run/faults
export PYTHONPATH={faults} MIGRATE_IMPATIENT=1 MIGRATE_PAUSE MIGRATE_PAUSE_FOLDER
exec {command} "$@"
"""
PROGRAM = "timed_waits.c"
BIG = "threads50.c"  # seven megabytes and two threads that never rest
QUICK = ("--max-downtime", "10s")  # freeze after the first round


@dataclass(slots=True)
class Theatre:
    """A pair whose commands can be told where to stop."""

    pair: Pair
    _number: int = field(default=0)

    def pause(self, point: str = "") -> Path:
        """From now on keepers stop at `point`; the folder that tells whether one did."""
        self._number += 1
        folder = self.pair.folder / f"pause-{self._number}"
        folder.mkdir()
        for host in (self.pair.a, self.pair.b):
            host.path("/run/faults").write_text(f"MIGRATE_PAUSE='{point}'\nMIGRATE_PAUSE_FOLDER={folder}\n")
        return folder


@pytest.fixture(scope="module")
def theatre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Theatre]:
    with make_pair(tmp_path_factory.mktemp("shared")) as pair:
        for host in (pair.a, pair.b):
            command = host.path("/run/bin/migrate")
            command.unlink()
            command.write_text(COMMAND.format(faults=FAULTS, command=REPOSITORY / ".venv/bin/migrate"))
            command.chmod(0o755)
        pair.a.path(f"{HOME}/.ssh/config").write_text("Host *\n  ConnectTimeout 2\n")
        yield Theatre(pair)


@contextmanager
def paused(theatre: Theatre, run: Run, point: str, *words: str) -> Iterator[tuple[Moving, Path]]:
    """A migration that stands at `point`."""
    folder = theatre.pause(point)
    with moving(theatre.pair, run.pid, *(words or QUICK)) as under_way:
        under_way.wait_for((folder / "reached").exists, point)
        yield under_way, folder
    theatre.pause()


def kill(host: Host, *words: str) -> None:
    """SIGKILL to whoever of the host has all these words in its command line; there has to be somebody."""
    found = processes(host, *words)
    assert found, f"nobody on {host.name} has {words}"
    for pid in found:
        host.kill(pid)


def kill_command(pair: Pair, under_way: Moving) -> None:
    under_way.process.send_signal(signal.SIGKILL)


def kill_source_keeper(pair: Pair, under_way: Moving) -> None:
    kill(pair.a, "migrate.keeper.process", "source", under_way.id)


def kill_destination_keeper(pair: Pair, under_way: Moving) -> None:
    kill(pair.b, "migrate.keeper.process", "destination", under_way.id)


def kill_session(pair: Pair, under_way: Moving) -> None:
    for pid in processes(pair.b, "sshd:", "@notty"):
        pair.b.kill(pid)


KILLS = {
    "command": kill_command, "source keeper": kill_source_keeper, "destination keeper": kill_destination_keeper,
    "SSH session": kill_session,
}  # fmt: skip
TURNING_BACK = [
    "source Scan after", "source Freeze after", "destination Finish before", "destination Finish after",
]  # fmt: skip
TOO_LATE = ["source HandOver after", "destination Resume before", "destination Resume after", "source Release before"]


# What is over again what another one is.
LEFT_OUT = {
    ("SSH session", "source Freeze after"), ("SSH session", "destination Finish before"),
    ("SSH session", "source HandOver before"), ("SSH session", "source HandOver after"),
    ("destination keeper", "source Freeze after"), ("destination keeper", "source HandOver before"),
    ("command", "source HandOver before"), ("source keeper", "destination Resume after"),
    # Nobody has a reason to speak with that host again: a socket and a cgroup stay, which hurt nobody.
    ("destination keeper", "source Release before"),
}  # fmt: skip


def cases(points: list[str], kills: Iterable[str] = KILLS) -> list[object]:
    pairs = [(point, who) for point in points for who in kills if (who, point) not in LEFT_OUT]
    return [pytest.param(point, who, id=f"{who} killed, {point}") for point, who in pairs]


# A keeper that was asked to hand over does so when it can; only its death undoes that.
BACK = cases(TURNING_BACK) + cases(["source Attach after", "source HandOver before"], ["source keeper"])
FORTH = cases(TOO_LATE)


@pytest.mark.parametrize(("point", "who"), BACK)
def test_before_the_hand_over_the_source_runs_on(point: str, who: str, theatre: Theatre) -> None:
    pair = theatre.pair
    run = pair.start(PROGRAM)
    with paused(theatre, run, point) as (under_way, folder):
        migration_id = under_way.id
        KILLS[who](pair, under_way)
        (folder / "go").touch()
        said = under_way.end()
    assert said.code == (-signal.SIGKILL if who == "command" else 1), said.text
    if who != "command":
        assert f"PID {run.pid} runs on here, unharmed" in said.err
    assert run.early_result() is None
    settled = ("READY", "ABORTED") if who != "destination keeper" else ("PREPARING", "READY", "ABORTED")
    wait_until(lambda: state_of(pair.b, migration_id) in settled, "the destination has come to rest", deadline_s=20)
    wait_until(lambda: not processes(pair.a, "keeper", migration_id), "the source's keeper let go")
    assert state_of(pair.a, migration_id) in ("ROLLED_BACK", "FROZEN", "PRECOPY")
    if state_of(pair.b, migration_id) != "ABORTED" or state_of(pair.a, migration_id) != "ROLLED_BACK":
        resolve(pair, migration_id, "the source runs")
    wait_until(lambda: not pair.b.alive(run.pid), "no copy is there")
    assert_runs_on(pair.a, run)
    assert_nothing_left([pair.a, pair.b])


def resolve(pair: Pair, migration_id: str, outcome: str, tries: int = 40) -> None:
    """`migrate resolve ID`, again while the keeper that is on its way out still holds the lock."""
    for _ in range(tries):
        said = pair.migrate("resolve", migration_id)
        if "being migrated already" not in said.err:
            break
    assert said.code == 0 and outcome in said.out, said.text


@pytest.mark.parametrize(("point", "who"), FORTH)
def test_from_the_hand_over_on_the_destination_runs(point: str, who: str, theatre: Theatre) -> None:
    pair = theatre.pair
    run = pair.start(PROGRAM)
    with paused(theatre, run, point) as (under_way, folder):
        migration_id = under_way.id
        assert is_frozen(pair.a, run.pid)
        KILLS[who](pair, under_way)
        (folder / "go").touch()
        said = under_way.end()
    if who == "command":
        wait_until(lambda: not processes(pair.a, "keeper", migration_id), "the source's keeper let go")
        if state_of(pair.a, migration_id) != "DONE":
            assert is_frozen(pair.a, run.pid), "the source may not run"
            listed = pair.migrate("status")
            assert f"migrate resolve {migration_id}" in listed.out, listed.text
            resolve(pair, migration_id, "the destination runs")
    else:
        assert said.code == 0, said.text
    assert not pair.a.alive(run.pid)
    assert_runs_on(pair.b, run)
    assert_nothing_left([pair.a, pair.b])
    assert (state_of(pair.a, migration_id), state_of(pair.b, migration_id)) == ("DONE", "RESUMED")


def test_a_destination_that_does_not_answer_resume_is_in_doubt_and_resolve_settles_it(theatre: Theatre) -> None:
    pair = theatre.pair
    run = pair.start(PROGRAM)
    with paused(theatre, run, "destination Resume before") as (under_way, folder):
        said = under_way.end()
        assert said.code == 4, said.text
        assert said.err.count("migrate resolve ") == 1
        assert f"migrate resolve {under_way.id}" in said.err
        assert is_frozen(pair.a, run.pid) and is_frozen(pair.b, run.pid)
        listed = pair.migrate("status")
        assert listed.code == 0 and "IN_DOUBT" in listed.out and str(run.pid) in listed.out, listed.text
        again = pair.migrate("resolve", under_way.id)
        assert again.code == 4 and "still in doubt" in again.err, again.text
        assert is_frozen(pair.a, run.pid) and is_frozen(pair.b, run.pid)
        (folder / "go").touch()
    resolve(pair, under_way.id, "the destination runs")
    assert not pair.a.alive(run.pid)
    assert_runs_on(pair.b, run)
    assert_nothing_left([pair.a, pair.b])


def test_a_link_that_goes_down_after_the_hand_over_is_in_doubt_until_it_is_up_again(theatre: Theatre) -> None:
    pair = theatre.pair
    run = pair.start(PROGRAM)
    with paused(theatre, run, "destination Resume before") as (under_way, folder):
        pair.b.link_down()
        try:
            (folder / "go").touch()
            said = under_way.end()
            assert said.code == 4, said.text
            assert is_frozen(pair.a, run.pid)
        finally:
            pair.b.link_up()
    wait_until(lambda: reaches(pair), "the link works again")
    resolve(pair, under_way.id, "the destination runs")
    assert not pair.a.alive(run.pid)
    assert_runs_on(pair.b, run)
    assert_nothing_left([pair.a, pair.b], deadline_s=40)


def reaches(pair: Pair) -> bool:
    return pair.a.run(["bash", "-c", "exec 3<>/dev/tcp/host-b/22"], check=False).returncode == 0


def test_a_link_that_goes_down_during_the_copying_leaves_the_source_running(theatre: Theatre) -> None:
    pair = theatre.pair
    theatre.pause()
    run = pair.start(BIG)
    with moving(pair, run.pid, "--bandwidth", "500kB", *QUICK) as under_way:
        under_way.wait_for(lambda: any(e["event"] == "round_progress" for e in under_way.events()), "pages go over")
        pair.b.link_down()
        try:
            said = under_way.end()
        finally:
            pair.b.link_up()
    assert said.code == 1, said.text
    assert_runs_on(pair.a, run)
    wait_until(lambda: reaches(pair), "the link works again")
    assert_nothing_left([pair.a, pair.b], deadline_s=40)


def test_ctrl_c_while_pages_go_over_rolls_back(theatre: Theatre) -> None:
    pair = theatre.pair
    theatre.pause()
    run = pair.start(BIG)
    with moving(pair, run.pid, "--bandwidth", "500kB", *QUICK) as under_way:
        under_way.wait_for(lambda: any(e["event"] == "round_progress" for e in under_way.events()), "pages go over")
        under_way.process.send_signal(signal.SIGINT)
        said = under_way.end()
    assert said.code == 1, said.text
    assert "interrupted" in said.text and f"PID {run.pid} runs on here, unharmed" in said.err
    assert not pair.b.alive(run.pid)
    assert_runs_on(pair.a, run)
    assert_nothing_left([pair.a, pair.b])


def test_ctrl_c_twice_after_the_hand_over_leaves_in_doubt_and_says_what_settles_it(theatre: Theatre) -> None:
    pair = theatre.pair
    run = pair.start(PROGRAM)
    with paused(theatre, run, "destination Resume before") as (under_way, folder):
        migration_id, stdout = under_way.id, under_way.process.stdout
        under_way.process.send_signal(signal.SIGINT)
        assert stdout is not None
        while "interrupted too late" not in (line := stdout.readline()):
            assert line
        under_way.process.send_signal(signal.SIGINT)
        said = under_way.end()
        assert said.code == 4, said.text
        assert f"migrate resolve {migration_id}" in said.text
        assert is_frozen(pair.a, run.pid) and is_frozen(pair.b, run.pid)
        (folder / "go").touch()
    resolve(pair, migration_id, "the destination runs")
    assert_runs_on(pair.b, run)
    assert_nothing_left([pair.a, pair.b])


def test_the_next_migration_undoes_one_that_was_killed(theatre: Theatre) -> None:
    pair = theatre.pair
    run = pair.start(PROGRAM)
    with paused(theatre, run, "source Scan after") as (under_way, folder):
        kill_command(pair, under_way)
        kill_source_keeper(pair, under_way)
        (folder / "go").touch()
    wait_until(lambda: not pair.b.alive(run.pid), "the copy went after its grace")
    pair.move(run, *QUICK)
    assert_runs_on(pair.b, run)
    assert_nothing_left([pair.a, pair.b])
