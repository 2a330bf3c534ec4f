"""A coordinator on a host of its own moves processes between others, and outlives its own death."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.api.fleet import Fleet
from tests.hosts import Host
from tests.program_build import Run
from tests.waiting import wait_until

ENDED = ("done", "failed", "refused", "in_doubt", "cancelled")

pytestmark = pytest.mark.timeout(400)


def ask(fleet: Fleet, run: Run, source: str, destination: str, **options: str) -> dict[str, Any]:
    body = {"source": source, "pid": run.pid, "destination": destination, "options": options}
    status, asked = fleet.http("POST", "/migrations", body)
    assert status == 201, asked
    return dict(asked)


def assert_moved(fleet: Fleet, run: Run, source: str, destination: str) -> None:
    assert fleet.hosts[destination].alive(run.pid) and not fleet.hosts[source].alive(run.pid)
    run.release()
    assert run.result() == "PASS"


@contextmanager
def uncordoned(fleet: Fleet, name: str) -> Iterator[None]:
    try:
        yield
    finally:
        fleet.migrate("hosts", "uncordon", name)


def test_a_migration_by_the_api_moves_the_process_and_tells_how(fleet: Fleet) -> None:
    run = fleet.start("threads50.c", on="web-1")
    fleet.http("POST", "/hosts/web-1/refresh")
    asked = ask(fleet, run, "web-1", "web-2")
    assert "threads50" in asked["workload"]["command"]
    done = fleet.wait_state(asked["id"], *ENDED)
    assert done["state"] == "done", done
    assert done["result"]["downtime_s"] > 0 and done["result"]["pids"] == [run.pid]
    assert_unfettered(fleet.hosts["web-2"], run.pid)
    assert_moved(fleet, run, "web-1", "web-2")
    told = fleet.ops.run(["curl", "-sN", f"http://127.0.0.1:8467/api/v1/migrations/{asked['id']}/events"]).stdout
    bodies = [json.loads(line[6:])["body"] for line in told.splitlines() if line.startswith('data: {"number')]
    assert [body["event"] for body in bodies][0 :: len(bodies) - 1] == ["started", "done"]


def test_what_is_refused_says_why_and_stays(fleet: Fleet) -> None:
    run = fleet.start("comm.c", on="web-1")
    fleet.hosts["web-2"].take_pid(run.pid)
    ended = fleet.wait_state(ask(fleet, run, "web-1", "web-2")["id"], *ENDED)
    assert ended["state"] == "refused" and str(run.pid) in ended["message"] and ended["hint"]
    status, checked = fleet.http("POST", "/checks", {"source": "web-1", "pid": run.pid, "destination": "web-2"})
    assert status == 200 and not checked["can_move"] and checked["blockers"][0]["hint"]
    assert fleet.hosts["web-1"].alive(run.pid)
    run.release()
    assert run.result() == "PASS"


def assert_unfettered(host: Host, pid: int) -> None:
    """A tracer under a seccomp filter cannot suspend its target's; what is restored would inherit both."""
    status = host.path(f"/proc/{pid}/status").read_text()
    assert "\nSeccomp:\t0\n" in status and "\nNoNewPrivs:\t0\n" in status, status


def test_what_traces_has_no_filter_and_a_cancel_rolls_back(fleet: Fleet) -> None:
    run = fleet.start("memory_big.c", on="web-1")  # a minute at that rate
    asked = ask(fleet, run, "web-1", "web-3", bandwidth="1MB")
    fleet.wait_state(asked["id"], "running")
    source = fleet.hosts["web-1"]
    job = source.path(f"/var/lib/migrate/jobs/{asked['id']}.json")
    wait_until(lambda: job.exists() and "pid" in job.read_text(), "the agent has started it", deadline_s=60)
    assert_unfettered(source, json.loads(job.read_text())["pid"])
    status, _ = fleet.http("POST", f"/migrations/{asked['id']}/cancel")
    assert status == 200
    ended = fleet.wait_state(asked["id"], *ENDED)
    assert ended["state"] == "cancelled", ended
    assert fleet.hosts["web-1"].alive(run.pid) and not fleet.hosts["web-3"].alive(run.pid)
    run.release()
    assert run.result() == "PASS"


def test_a_coordinator_that_dies_leaves_the_migration_running_and_the_next_one_follows_it(fleet: Fleet) -> None:
    run = fleet.start("memory_big.c", on="web-1")
    asked = ask(fleet, run, "web-1", "web-2", bandwidth="8MB")
    fleet.wait_state(asked["id"], "running")
    fleet.stop_server()
    fleet.start_server()
    done = fleet.wait_state(asked["id"], *ENDED)
    assert done["state"] == "done", done
    assert_moved(fleet, run, "web-1", "web-2")


def test_a_drain_goes_where_the_files_are(fleet: Fleet) -> None:
    words = "/srv/programs/words"
    for name in ("web-1", "web-3"):
        path = fleet.hosts[name].path(words)
        path.parent.mkdir(exist_ok=True)
        path.write_text("as many as here\n")
    reader = fleet.hosts["web-1"].start(["tail", "-f", words])
    try:
        with uncordoned(fleet, "web-1"):
            wait_until(lambda: fleet.hosts["web-1"].path(f"/proc/{reader}/fd/3").is_symlink(), "it has its file open")
            for _ in range(2):
                _, drain = fleet.http("POST", "/drains", {"host": "web-1", "dry_run": True})
                [move] = drain["plan"]["moves"]
                assert (move["pid"], move["destination"], move["hindrance"]) == (reader, "web-3", ""), drain
            fleet.hosts["web-3"].path(words).unlink()
            _, drain = fleet.http("POST", "/drains", {"host": "web-1", "dry_run": True})
            [stays] = drain["plan"]["unplaced"]
            assert stays["pid"] == reader and words in stays["reason"] and "missing" in stays["reason"], drain
    finally:
        fleet.hosts["web-1"].kill(reader)


def test_a_drain_leaves_what_has_no_place_and_says_why(fleet: Fleet) -> None:
    stays = fleet.start("comm.c", on="web-1")
    for name in ("web-2", "web-3"):
        fleet.hosts[name].take_pid(stays.pid)
    with uncordoned(fleet, "web-1"):
        status, drain = fleet.http("POST", "/drains", {"host": "web-1", "dry_run": True})
        assert status == 201 and drain["plan"]["moves"] == []
        [unplaced] = drain["plan"]["unplaced"]
        assert unplaced["pid"] == stays.pid and f"PID {stays.pid}" in unplaced["reason"] and unplaced["hint"]
        said = fleet.migrate("drain", "web-1", check=False)
        assert said.code == 1 and "web-1 is not empty: 1 workload stays there" in said.text, said.text
    stays.release()
    assert stays.result() == "PASS"
