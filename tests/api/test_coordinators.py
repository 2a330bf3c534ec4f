"""Two coordinators on one PostgreSQL: when one is killed, the other goes on with its work, exactly once."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api.fleet import Fleet
from tests.hosts import Host
from tests.waiting import wait_until

BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/none"))
PORTS = (8471, 8472)
URL = "postgresql://postgres@127.0.0.1:5432/postgres"

pytestmark = pytest.mark.timeout(400)


@contextmanager
def database(host: Host) -> Iterator[str]:
    """Debian's PostgreSQL on `host`; its URL."""
    folder = "/var/lib/test-postgres"
    host.run(["install", "-d", "-o", "postgres", "-m", "700", folder])
    as_user = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
    host.run([*as_user, str(BINARIES / "initdb"), "-D", folder, "-A", "trust", "--no-sync"], timeout_s=110)
    options = ["-k", "", "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    pid = host.start([*as_user, str(BINARIES / "postgres"), "-D", folder, *options], stdout="/run/postgres.log")
    wait_until(lambda: host.listens(5432), "PostgreSQL listens", deadline_s=60)
    try:
        yield URL
    finally:
        host.kill(pid, 3)
        wait_until(lambda: not host.alive(pid), "PostgreSQL is gone", deadline_s=30)


def test_the_work_of_a_killed_coordinator_is_taken_over_and_done_once(fleet: Fleet) -> None:
    with database(fleet.ops) as url:
        servers = {port: fleet.start_server("--database", url, "--name", f"c{port}", port=port) for port in PORTS}
        run = fleet.start("memory_big.c", on="web-1")
        body = {"source": "web-1", "pid": run.pid, "destination": "web-2", "options": {"bandwidth": "8MB"}}
        status, asked = fleet.http("POST", "/migrations", body, port=PORTS[0])
        assert status == 201, asked
        fleet.wait_state(asked["id"], "running", port=PORTS[1])
        owner = f"SELECT lease_owner FROM migrations WHERE id = '{asked['id']}'"
        found = fleet.ops.run([str(BINARIES / "psql"), "-At", "-c", owner, url]).stdout.strip()
        dead = int(found.removeprefix("c"))
        alive = next(port for port in PORTS if port != dead)
        fleet.ops.kill(servers[dead])
        done = fleet.wait_state(asked["id"], "done", "failed", "refused", "in_doubt", port=alive)
        assert done["state"] == "done", done
        events = f"http://127.0.0.1:{alive}/api/v1/migrations/{asked['id']}/events"
        lines = fleet.ops.run(["curl", "-sN", events]).stdout.splitlines()
        told = [json.loads(line[6:]) for line in lines if line.startswith('data: {"number')]
        assert [event["number"] for event in told] == list(range(1, len(told) + 1))
        assert [event["body"]["event"] for event in told].count("started") == 1
        assert fleet.hosts["web-2"].alive(run.pid) and not fleet.hosts["web-1"].alive(run.pid)
        run.release()
        assert run.result() == "PASS"
        fleet.ops.kill(servers[alive])
        wait_until(lambda: not fleet.ops.alive(servers[alive]), "the other server is gone", deadline_s=30)
