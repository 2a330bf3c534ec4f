"""`make demo`: a busy redis moves from host-a to host-b, and every acknowledged write is proved to be there.

The hosts are namespaces of this machine (tests/hosts); everything made here is gone at the end, also after Ctrl-C.
With --stay nothing moves: a rehearsal of everything else.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from demo.report import client_lines, migration_lines, read_events
from demo.workload import BLOCK_BYTES, BLOCKS, PORT
from tests.hosts import Host, HostPopen, make_hosts
from tests.hosts.host import REPOSITORY
from tests.waiting import wait_until

EVENTS = "/run/migrate-events.json"
DATA = "/srv/redis"
MIGRATE_TIMEOUT_S = 90
BEGIN = time.monotonic()


class DemoFailed(Exception):
    """Something that the demo claims is not so."""


def say(text: str) -> None:
    """One step, with the seconds since the start."""
    print(f"[{time.monotonic() - BEGIN:5.1f} s] {text}", flush=True)


def module(name: str, *arguments: str) -> list[str]:
    """Command line of one of the demo's own modules inside a host."""
    return ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-m", name, *arguments]


def start_redis(host: Host) -> int:
    """redis-server as a service: own session, nothing on disk. Its PID in the host."""
    host.run(["mkdir", "-p", DATA])
    listen = ["--port", str(PORT), "--bind", "0.0.0.0", "--protected-mode", "no"]
    nothing_on_disk = ["--save", "", "--appendonly", "no", "--dir", DATA]
    pid = host.start(["redis-server", *listen, *nothing_on_disk], cwd=DATA)
    wait_until(lambda: host.listens(PORT), "redis listens")
    return pid


def start_client(client: Host, servers: Sequence[str]) -> HostPopen:
    """The client, writing."""
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = client.popen(module("demo.client", *servers), start_new_session=True, **streams)
    if not process.stdout or not process.stdout.readline():
        raise DemoFailed("the client did not start")
    return process


def stop_client(process: HostPopen) -> dict[str, Any]:
    """The client's record of what was acknowledged."""
    out, _ = process.communicate(timeout=20)
    record: dict[str, Any] = json.loads(out.splitlines()[-1])
    return record


def move(host: Host, pid: int) -> None:
    """The command, as a person would type it, on this terminal."""
    argv = ["migrate", str(pid), "root@host-b", "--tcp", "close"]
    print(f"\nroot@{host.name}:~# {' '.join(argv)}", flush=True)
    with host.popen([*argv, "--events-file", EVENTS], env=terminal_settings()) as process:
        try:
            status = process.wait(timeout=MIGRATE_TIMEOUT_S)
        except BaseException:
            process.kill()
            raise
    print(flush=True)
    if status:
        raise DemoFailed(f"migrate ended with exit code {status}")


def terminal_settings() -> dict[str, str]:
    """What a login would have passed on."""
    return {name: value for name in ("TERM", "COLUMNS", "NO_COLOR") if (value := os.environ.get(name))}


def prove(record: dict[str, Any], client: Host, a: Host, b: Host, pid: int) -> None:
    """Host-b answers with everything that was acknowledged; host-a has the process no longer."""
    if b.name not in record["by_host"]:
        raise DemoFailed(f"the client was never answered by {b.name}")
    if a is not b and a.alive(pid):
        raise DemoFailed(f"PID {pid} still exists on {a.name}")
    checked = client.run(module("demo.workload", "verify", b.name, str(record["acknowledged"])), check=False)
    if checked.returncode:
        raise DemoFailed(checked.stderr.strip())


def demo(stay: bool) -> None:
    """The whole story."""
    with make_hosts("host-a", "host-b", "client") as (a, b, client):
        b.start_sshd()
        b.run(["mkdir", "-p", DATA])  # redis's working directory must be there too
        say("two hosts and a client: own network, PID, mount, IPC and UTS namespaces, joined by veth, sshd on host-b")
        pid = start_redis(a)
        client.run(module("demo.workload", "fill", "host-a"))
        say(f"redis-server is PID {pid} on host-a and holds {BLOCKS * BLOCK_BYTES / 2**20:.0f} MiB")
        writer = start_client(client, ["host-a", "host-b"])
        say("the client writes and goes on writing")
        if stay:
            client.run(["sleep", "2"])
        else:
            move(a, pid)
        client.run(["sleep", "1"])  # let the client be served by the new host for a while
        record = stop_client(writer)
        prove(record, client, a, a if stay else b, pid)
        say(f"proved: all {BLOCKS:,} initial values and all {record['acknowledged']:,} acknowledged writes are right")
        measured = [] if stay else migration_lines(read_events(a.path(EVENTS)))
        print("\n".join(["", *measured, *client_lines(record), ""]))


def main() -> int:
    """Exit code 0 only when everything was proved."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        demo(stay="--stay" in sys.argv[1:])
    except DemoFailed as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; everything it made is gone", file=sys.stderr)
        return 130
    say("everything the demo made is gone again")
    return 0


if __name__ == "__main__":
    sys.exit(main())
