"""Downtime of the demo's redis, by phase, while its client writes: moved there and back between two test hosts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from demo.__main__ import DATA, EVENTS, module, start_client, start_redis, stop_client
from demo.report import read_events
from demo.workload import PORT
from tests.bench.sheet import Scale, Sheet
from tests.hosts import Host, make_hosts
from tests.hosts.host import HostPopen
from tests.waiting import wait_until

SMALL = f"""
import socket
from demo.workload import PORT, command, read_reply
with socket.create_connection(("host-a", PORT)) as connection, connection.makefile("rb") as stream:
    connection.sendall(command(b"SET", b"small", b"x" * 100000))
    assert read_reply(stream) == b"OK", {PORT}
"""


def measure(scale: Scale, sheet: Sheet) -> None:
    """scale.moves moves of one redis; the client of each is its own, so that its longest gap is that move's."""
    with make_hosts("host-a", "host-b", "client") as (a, b, client):
        for host in (a, b):
            host.start_sshd()
            host.run(["mkdir", "-p", DATA])
        pid = start_redis(a)
        filling = module("demo.workload", "fill", "host-a") if scale.moves > 1 else [*module("x")[:3], "-c", SMALL]
        client.run(filling, timeout_s=120)
        for number in range(scale.moves):
            here, there = (b, a) if number % 2 else (a, b)
            with writing(client, here, there) as record:
                events = _move(here, there, pid)
            _tell(events, record, sheet)


@contextmanager
def writing(client: Host, here: Host, there: Host) -> Iterator[dict[str, Any]]:
    """A writing client; its record is filled in at the end."""
    record: dict[str, Any] = {}
    writer: HostPopen = start_client(client, [here.name, there.name])
    try:
        yield record
        wait_until(lambda: there.listens(PORT), "redis listens over there")
        while writer.stdout and json.loads(writer.stdout.readline())["connected"] != there.name:
            pass  # a slow answer makes it look around and find the old one again
    except BaseException:
        writer.kill()
        raise
    record.update(stop_client(writer))


def _move(here: Host, there: Host, pid: int) -> list[Any]:
    here.path(EVENTS).unlink(missing_ok=True)
    here.run(
        ["migrate", str(pid), f"root@{there.name}", "--tcp", "close", "--events-file", EVENTS], timeout_s=90
    )  # fmt: skip
    return list(read_events(here.path(EVENTS)))


def _tell(events: list[Any], record: dict[str, Any], sheet: Sheet) -> None:
    done = next(event for event in events if event["event"] == "done")
    first = next(event for event in events if event["event"] == "round_done")
    for phase in done["phases"]:
        sheet.ms(f"downtime: {phase['name']}", phase["seconds"])
    sheet.ms("downtime", done["downtime_s"])
    sheet.ms("longest time between two acknowledgements", record["longest_gap_s"])
    sheet.add("rounds", "", done["rounds"])
    sheet.add("all of it", "s", done["total_s"])
    sheet.add("sent", "MiB", done["sent_bytes"] / 2**20)
    sheet.add("round 1, through SSH", "MiB/s", first["dirty_pages"] / 256 / first["seconds"])
