"""The demo's client: goes on writing, one numbered value after the other, and follows the server to where it answers.

Run inside a test host as `python -m demo.client HOST…` until its standard input closes; then one line of JSON tells
what was acknowledged, where, and the longest time between two acknowledgements. A write is sent again only when it was
not acknowledged. Each time it finds the server it says where, in a line of JSON of its own.
"""

import json
import select
import socket
import sys
import threading
import time
from dataclasses import asdict, dataclass, field

from demo.workload import PORT, command, numbered

REPLY_TIMEOUT_S = 0.02  # then it asks around; the server may just be slow and will answer again
RETRY_S = 0.005
PACE_S = 0.0005
PONG = b"+PONG\r\n"
OK = b"+OK\r\n"


@dataclass(slots=True)
class Record:
    """What the client can swear to."""

    acknowledged: int = 0
    sent_again: int = 0
    by_host: dict[str, int] = field(default_factory=dict)
    longest_gap_s: float = 0.0
    last: float = 0.0

    def acknowledge(self, host: str) -> None:
        """One more write is safe."""
        now = time.monotonic()
        if self.last:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last)
        self.last = now
        self.acknowledged += 1
        self.by_host[host] = self.by_host.get(host, 0) + 1


def knock(host: str) -> socket.socket:
    """A connection in the making, with a question to be answered on it."""
    connection = socket.create_connection((host, PORT), timeout=0.2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.settimeout(REPLY_TIMEOUT_S)
    connection.sendall(command(b"PING"))
    return connection


def find_server(hosts: list[str], stop: threading.Event) -> tuple[str, socket.socket] | None:
    """Ask every host, again and again, until one answers. A frozen server lets connect and says nothing."""
    waiting: dict[str, socket.socket] = {}
    try:
        while not stop.is_set():
            for host in hosts:
                if host not in waiting:
                    try:
                        waiting[host] = knock(host)
                    except OSError:
                        continue
            for ready in select.select(list(waiting.values()), [], [], RETRY_S)[0]:
                host = next(name for name, connection in waiting.items() if connection is ready)
                connection = waiting.pop(host)
                if answers(connection, PONG):
                    return host, connection
                connection.close()
            if not waiting:
                time.sleep(RETRY_S)
        return None
    finally:
        for connection in waiting.values():
            connection.close()


def answers(connection: socket.socket, expected: bytes) -> bool:
    """Does exactly this come back, within the socket's timeout?"""
    try:
        return connection.recv(len(expected), socket.MSG_WAITALL) == expected
    except OSError:
        return False


def write_on(host: str, connection: socket.socket, record: Record, stop: threading.Event) -> None:
    """Write until told to stop or something goes wrong; the write in flight then counts as not done."""
    while not stop.is_set():
        number = record.acknowledged
        try:
            connection.sendall(command(b"SET", b"write:%d" % number, numbered(number)))
        except OSError:
            return
        if not answers(connection, OK):
            return
        record.acknowledge(host)
        time.sleep(PACE_S)


def stop_at_end_of_input(stop: threading.Event) -> None:
    """Also a killed demo ends us so."""
    sys.stdin.read()
    stop.set()


def main() -> None:
    """Write until standard input ends, then tell."""
    hosts, record, stop = sys.argv[1:], Record(), threading.Event()
    threading.Thread(target=stop_at_end_of_input, args=(stop,), daemon=True).start()
    while found := find_server(hosts, stop):
        host, connection = found
        print(json.dumps({"connected": host}), flush=True)
        with connection:
            write_on(host, connection, record, stop)
        record.sent_again += not stop.is_set()
    print(json.dumps(asdict(record)), flush=True)


if __name__ == "__main__":
    main()
