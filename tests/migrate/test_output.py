"""What the command tells programs and people, and whether it keeps to what it was told: pace, downtime, command."""

import json
import stat
from collections.abc import Iterator

import pytest

from tests.migrate.moving import Pair, assert_nothing_left, assert_runs_on
from tests.program_build import Run
from tests.waiting import wait_until

DOWNTIME_PARTS = {"freeze", "last scan", "collect", "last pages", "restore", "hand over", "resume"}
BANDWIDTH = 8_000_000  # bytes per second
QUICK = ("--max-downtime", "10s")


@pytest.fixture
def writer(pair: Pair) -> Iterator[Run]:
    """It writes 16 MiB again and again, as fast as it can."""
    run = pair.start("memory_writer.c")
    yield run
    for host in (pair.a, pair.b):
        if host.alive(run.pid):
            host.kill(run.pid)


def test_json_is_lines_of_events_and_nothing_else(pair: Pair) -> None:
    run = pair.start("counter.c")
    said = pair.move(run, "--json", "--events-file", "/run/events", "--log-file", "/run/log")
    assert said.err == ""
    names = [event["event"] for event in said.events]
    assert names[0] == "started" and names[-1] == "done" and "round_done" in names
    phases = [event["phase"] for event in said.events if event["event"] == "phase_started"]
    assert phases == [
        "connect", "preflight", "agree", "attach", "precopy", "freeze", "restore", "hand over", "resume", "release",
    ]  # fmt: skip
    assert pair.a.path("/run/events").read_text() == said.out
    log = pair.a.path("/run/log")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    records = [json.loads(line) for line in log.read_text().splitlines()]
    told = [json.loads(record["event"])["event"] for record in records if record["logger"] == "migrate.cli.watch"]
    assert told == names
    assert {record.get("migration") for record in records[-3:]} == {said.events[0]["migration_id"]}
    assert_runs_on(pair.b, run)


def test_the_parts_of_the_downtime_add_up(pair: Pair) -> None:
    run = pair.start("threads50.c")
    done = pair.move(run, "--json", *QUICK).event("done")
    parts = {phase["name"]: phase["seconds"] for phase in done["phases"] if ": " not in phase["name"]}
    assert parts.keys() >= DOWNTIME_PARTS
    assert sum(parts.values()) == pytest.approx(done["downtime_s"], rel=0.05)
    for name, whole in parts.items():
        inner = [phase["seconds"] for phase in done["phases"] if phase["name"].startswith(f"{name}: ")]
        assert sum(inner) <= whole
    assert done["pids"] == [run.pid]
    assert_runs_on(pair.b, run)


def test_a_refusal_is_an_event_too(pair: Pair) -> None:
    said = pair.migrate(31999, "root@host-b", "--json")
    assert said.code == 3
    assert [blocker["code"] for blocker in said.event("blocked")["blockers"]] == ["no-process"]


def test_bandwidth_is_kept_to(pair: Pair, writer: Run) -> None:
    said = pair.move(writer, "--json", "--bandwidth", f"{BANDWIDTH // 10**6}MB", *QUICK)
    first = next(event for event in said.events if event["event"] == "round_done")
    assert first["sent_bytes"] > 10_000_000
    assert first["bytes_per_s"] <= 1.2 * BANDWIDTH
    assert first["bytes_per_s"] >= 0.5 * BANDWIDTH, "a busy machine may be slower, but hardly that much"
    assert_runs_on(pair.b, writer)


def test_a_downtime_that_cannot_be_had_until_the_deadline_gives_up_and_the_source_runs_on(
    pair: Pair, writer: Run
) -> None:
    words = ("--max-downtime", "50ms", "--bandwidth", "10MB", "--deadline", "4s")
    said = pair.migrate(writer.pid, "root@host-b", "--json", *words)
    assert said.code == 1, said.text
    failed = said.event("failed")
    assert failed["kind"] == "GaveUp" and "deadline of 4 s" in failed["message"] and "--max-downtime" in failed["hint"]
    assert failed["stopped_s"] == 0
    assert not pair.b.alive(writer.pid)
    assert_runs_on(pair.a, writer)
    assert_nothing_left([pair.a, pair.b])


def test_a_remote_command_of_several_words_is_run_as_it_stands(pair: Pair) -> None:
    wrapper = pair.b.path("/run/bin/sudo")
    wrapper.write_text('#!/bin/sh\necho "$*" >>/run/sudo.log\n[ "$1" = -n ] && shift && exec "$@"\n')
    wrapper.chmod(0o755)
    run = pair.start("counter.c")
    pair.move(run, "--remote-command", "sudo -n migrate")
    lines = pair.b.path("/run/sudo.log").read_text().splitlines()
    assert "-n migrate dest" in lines
    assert any(line.startswith("-n migrate dest --pages ") for line in lines)
    assert_runs_on(pair.b, run)


def test_a_remote_sudo_that_wants_a_password_is_said_so(pair: Pair) -> None:
    wrapper = pair.b.path("/run/bin/sudo")
    wrapper.write_text('#!/bin/sh\necho "sudo: a password is required" >&2\nexit 1\n')
    wrapper.chmod(0o755)
    run = pair.start("counter.c")
    said = pair.migrate(run.pid, "root@host-b", "--remote-command", "sudo -n migrate")
    assert said.code == 3 and "sudo refuses" in said.err and "NOPASSWD" in said.err, said.text
    assert_runs_on(pair.a, run)


def test_a_taken_pid_moves_into_a_namespace_of_its_own(pair: Pair) -> None:
    run = pair.start("counter.c")
    taken = pair.b.take_pid(run.pid)
    pair.b.start(["true"], pid=20000)
    said = pair.migrate(run.pid, "root@host-b", "--pid", "namespace", "--json")
    assert said.code == 0, said.text
    assert not pair.a.alive(run.pid)
    outside = said.event("done")["pids"][0]
    assert outside != run.pid and pair.b.alive(outside)
    lines = pair.b.path(f"/proc/{outside}/status").read_text().splitlines()
    numbers = next(line for line in lines if line.startswith("NSpid:")).split()[1:]
    assert numbers[-1] == str(run.pid), "it knows itself by its own PID"
    run.release()
    assert run.result() == "PASS"
    wait_until(lambda: not pair.b.alive(outside), "it ended, and the small init reaped it")
    assert_nothing_left([pair.a, pair.b])
    pair.b.kill(taken)
