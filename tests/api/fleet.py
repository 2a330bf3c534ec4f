"""What the tests of a coordinator share: its hosts, its server, its command line. Claims nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.hosts import Host, make_hosts
from tests.migrate.moving import Said
from tests.program_build import ENVIRONMENT, Run, find
from tests.waiting import wait_until

PORT = 8467
PROGRAMS_OF_TESTS = """
[[workloads]]
name = "program"
command = "*/programs/*"
shared = ["{folder}"]
"""


@dataclass(slots=True)
class Fleet:
    """ops, and the hosts it knows. `folder` is the same directory under the same name everywhere."""

    ops: Host
    hosts: dict[str, Host]
    folder: Path
    server: int = 0
    started: int = 0

    def start_server(self, *options: str, port: int = PORT) -> int:
        """`migrate serve` on ops; returns when it answers."""
        argv = ["migrate", "serve", "--inventory", "/run/inventory.toml", "--listen", f"127.0.0.1:{port}", *options]
        server = self.ops.start(argv, stdout=f"/run/serve-{port}.log")
        said = self.ops.path(f"/run/serve-{port}.log")
        wait_until(lambda: self.ops.listens(port) or not self.ops.alive(server), "the server listens", deadline_s=60)
        assert self.ops.listens(port), said.read_text()
        self.server = server
        return server

    def stop_server(self, signal_number: int = 9) -> None:
        """End the server, by default as a crash would."""
        self.ops.kill(self.server, signal_number)
        wait_until(lambda: not self.ops.alive(self.server), "the server is gone", deadline_s=30)

    def migrate(self, *words: str | int, check: bool = True, env: dict[str, str] | None = None) -> Said:
        """`migrate WORDS…` on ops, which asks the server."""
        server = {"MIGRATE_SERVER": f"http://127.0.0.1:{PORT}", **(env or {})}
        done = self.ops.run(["migrate", *map(str, words)], check=check, env=server, timeout_s=300)
        return Said(done.returncode, done.stdout, done.stderr)

    def http(self, method: str, path: str, body: object = None, *, port: int = PORT) -> tuple[int, Any]:
        """Status and JSON of one request, sent from ops."""
        argv = ["curl", "-s", "-X", method, "-w", "\n%{http_code}", f"http://127.0.0.1:{port}/api/v1{path}"]
        argv += ["-d", json.dumps(body)] if body is not None else []
        out, _, status = self.ops.run(argv).stdout.rpartition("\n")
        return int(status), json.loads(out) if out else None

    def start(self, program: str, on: str) -> Run:
        """A self-checking program as a service of a host, ready."""
        self.started += 1
        host = self.hosts[on]
        run = find(program).start(self.folder / str(self.started), lambda argv: host.start(argv, env=ENVIRONMENT))
        run.wait_ready()
        return run

    def wait_state(self, migration_id: str, *states: str, port: int = PORT) -> dict[str, Any]:
        """The migration, once it is in one of `states`."""
        found: dict[str, Any] = {}

        def there() -> bool:
            found.update(self.http("GET", f"/migrations/{migration_id}", port=port)[1])
            return found["state"] in states

        wait_until(there, f"migration {migration_id} is {' or '.join(states)}: {found}", deadline_s=100)
        return found


@contextmanager
def make_fleet(workloads: str = "") -> Iterator[Fleet]:
    """Hosts with sshd, and ops with a server that knows them. `workloads`: more selectors, as an inventory has them."""
    with TemporaryDirectory(prefix="fleet-", ignore_cleanup_errors=True) as made:
        yield from _joined(Path(made), workloads)


def _joined(folder: Path, workloads: str) -> Iterator[Fleet]:
    folder.chmod(0o755)
    names = ("web-1", "web-2", "web-3")
    with make_hosts("ops", *names, binds={str(folder): str(folder)}) as (ops, *others):
        for host in others:
            host.start_sshd()
        fleet = Fleet(ops, dict(zip(names, others, strict=True)), folder)
        tables = [f'[hosts.{name}]\naddress = "root@{name}"\nlabels = {{ tier = "web" }}\n' for name in names]
        text = "\n".join(tables) + (PROGRAMS_OF_TESTS + workloads).format(folder=folder)
        ops.path("/run/inventory.toml").write_text(text)
        fleet.start_server()
        yield fleet
