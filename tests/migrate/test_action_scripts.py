"""Action scripts of a migration: called on both hosts; one that fails before the hand-over rolls it back."""

import pytest

from tests.action_script import actions, calls, make_script
from tests.migrate.moving import Pair, assert_nothing_left, assert_runs_on, moving
from tests.waiting import wait_until

NOTES = "/run/notes"  # each host has its own
HERE = ["pre-dump", "network-lock", "post-dump"]
THERE = [
    "pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore", "network-unlock", "pre-resume",
    "post-resume",
]  # fmt: skip
PROGRAM = "signal_masks.c"


def script(pair: Pair) -> str:
    """With empty notes on both hosts."""
    for host in (pair.a, pair.b):
        host.run(["rm", "-rf", NOTES])
        host.run(["mkdir", NOTES])
    return make_script(pair.folder / "script", NOTES)


def test_they_are_called_on_the_host_where_it_happens(pair: Pair) -> None:
    run = pair.start(PROGRAM)
    pair.move(run, "--action-script", script(pair))
    assert actions(pair.a.path(NOTES)) == HERE
    wait_until(lambda: actions(pair.b.path(NOTES)) == THERE, "post-resume is called")
    assert [call.pid for call in calls(pair.b.path(NOTES))] == ["-", *[str(run.pid)] * 6]
    assert {call.images for host in (pair.a, pair.b) for call in calls(host.path(NOTES))} == {"-"}
    run.release()
    assert run.result() == "PASS"


@pytest.mark.parametrize("action", ["network-lock", "post-dump", "pre-resume"])
def test_one_that_fails_leaves_the_source_running(action: str, pair: Pair) -> None:
    run = pair.start(PROGRAM)
    file = script(pair)
    host = pair.a if action in HERE else pair.b
    host.run(["touch", f"{NOTES}/fail-{action}"])
    said = pair.migrate(run.pid, "root@host-b", "--action-script", file)
    assert said.code == 1 and f"{file} ({action})" in said.err and "the disk is full" in said.err, said.text
    here = actions(pair.a.path(NOTES))
    assert ("network-lock" in here) == (here[-1] == "network-unlock"), here
    assert not pair.b.alive(run.pid)
    assert_runs_on(pair.a, run)


def test_one_that_hangs_in_the_freeze_is_given_up_and_the_source_runs_on(pair: Pair) -> None:
    run = pair.start(PROGRAM)
    file = script(pair)
    pair.b.run(["touch", f"{NOTES}/hang-post-restore"])
    with moving(pair, run.pid, "--action-script", file) as move:
        move.wait_for(lambda: pair.b.path(f"{NOTES}/hanging").exists(), "the script hangs")
        said = move.end()
    reasons = (f"{file} (post-restore): did not end within 5 s", "was not ready in time")  # the latter under load
    assert said.code == 1 and any(reason in said.err for reason in reasons), said.text
    assert_runs_on(pair.a, run)


def test_one_that_is_not_over_there_is_refused_beforehand(pair: Pair) -> None:
    run = pair.start(PROGRAM)
    pair.a.run(["cp", script(pair), "/srv/only-here"])
    said = pair.migrate("check", run.pid, "root@host-b", "--action-script", "/srv/only-here")
    assert said.code == 3 and "/srv/only-here (action script)  is missing on host-b" in said.err, said.text
    assert_runs_on(pair.a, run)


def test_all_of_that_left_nothing_behind(pair: Pair) -> None:
    assert_nothing_left([pair.a, pair.b])
