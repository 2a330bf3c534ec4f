"""redis under load moves to another host: every write that was acknowledged is there, and it goes on taking writes."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.hosts import Host, HostPopen, make_hosts
from tests.hosts.host import REPOSITORY
from tests.migrate.moving import assert_nothing_left
from tests.requires import require_program, require_root
from tests.waiting import wait_until

PORT = 6379
DATA = "/srv/redis"
BLOCKS = 512  # of 64 KiB: 32 MiB
FILL = f"""
import sys
from demo import workload
workload.BLOCKS = {BLOCKS}
getattr(workload, sys.argv[1])(*[sys.argv[2], *map(int, sys.argv[3:])])
"""


@pytest.fixture
def hosts() -> Iterator[Sequence[Host]]:
    """Two servers and a client."""
    require_root()
    require_program("redis-server")
    with make_hosts("host-a", "host-b", "client") as made:
        for host in made[:2]:
            host.start_sshd()
            host.run(["mkdir", "-p", DATA])
        yield made


def start_redis(host: Host) -> int:
    """Nothing on disk."""
    options = ["--port", str(PORT), "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", "--appendonly", "no"]
    pid = host.start(["redis-server", *options, "--dir", DATA], cwd=DATA)
    wait_until(lambda: host.listens(PORT), "redis listens")
    return pid


def workload(client: Host, *words: str) -> str:
    """`fill` or `verify` of the demo, small."""
    done = client.run([sys.executable, "-c", FILL, *words], env={"PYTHONPATH": str(REPOSITORY)}, check=False)
    return done.stdout + done.stderr


def start_writer(client: Host) -> HostPopen:
    """The demo's client: one numbered write after the other, to whichever host answers."""
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    argv = [sys.executable, "-m", "demo.client", "host-a", "host-b"]
    return client.popen(argv, env={"PYTHONPATH": str(REPOSITORY)}, **streams)


def test_redis_under_load_keeps_every_acknowledged_write(hosts: Sequence[Host]) -> None:
    a, b, client = hosts
    pid = start_redis(a)
    assert workload(client, "fill", "host-a") == ""
    with start_writer(client) as writer:
        assert writer.stdout is not None
        assert json.loads(writer.stdout.readline()) == {"connected": "host-a"}
        refused = a.run(["migrate", str(pid), "root@host-b"], check=False)
        assert refused.returncode == 3 and "--tcp close" in refused.stderr, refused.stderr
        moved = a.run(["migrate", str(pid), "root@host-b", "--tcp", "close"], check=False)
        assert moved.returncode == 0, moved.stdout + moved.stderr
        while json.loads(writer.stdout.readline()) != {"connected": "host-b"}:
            pass
        out, _ = writer.communicate(timeout=20)
    record = json.loads(out.splitlines()[-1])
    assert record["acknowledged"] > 100 and record["by_host"]["host-a"] > 0
    assert not a.alive(pid) and b.alive(pid)
    assert workload(client, "verify", "host-b", str(record["acknowledged"])) == ""
    b.run(["redis-cli", "shutdown", "nosave"])
    wait_until(lambda: not b.alive(pid), "redis ended in good order")
    assert_nothing_left([a, b])
