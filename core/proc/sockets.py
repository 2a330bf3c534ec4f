"""/proc/PID/net/{tcp,tcp6,udp,udp6,unix,netlink,packet}: sockets of a network namespace by inode."""

import socket
import struct
from dataclasses import dataclass
from typing import Final

from core.proc.text import malformed

ESTABLISHED, CLOSE, LISTEN = 1, 7, 10
TCP_STATES: Final = (
    "", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT",
    "LAST_ACK", "LISTEN", "CLOSING", "NEW_SYN_RECV",
)  # fmt: skip
UNIX_ACCEPTING: Final = 0x10000
UNIX_CONNECTED: Final = 3


@dataclass(frozen=True, slots=True)
class InetSocket:
    """A TCP or UDP socket: `protocol` is the file's name (tcp, tcp6, udp, udp6), `state` the kernel's number."""

    protocol: str
    inode: int
    state: int
    local: tuple[str, int]
    remote: tuple[str, int]

    @property
    def state_name(self) -> str:
        """LISTEN, ESTABLISHED…"""
        return TCP_STATES[self.state] if self.state < len(TCP_STATES) else str(self.state)


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """A UNIX socket; an abstract name begins with "@"."""

    inode: int
    kind: int  # SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET
    is_listening: bool
    is_connected: bool
    path: str


def format_address(address: tuple[str, int]) -> str:
    """10.0.0.1:80 or [::1]:80."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_inet(text: str, protocol: str, file: str | None = None) -> tuple[InetSocket, ...]:
    """Sockets of one of the four files. Source: proc_pid_net(5)."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if number == 1 or not fields:
            continue
        try:
            local, remote = _parse_address(fields[1]), _parse_address(fields[2])
            found.append(InetSocket(protocol, int(fields[9]), int(fields[3], 16), local, remote))
        except (ValueError, IndexError):
            raise malformed(file or f"net/{protocol}", number, line) from None
    return tuple(found)


def _parse_address(word: str) -> tuple[str, int]:
    """Address words are 32-bit numbers in the host's order, printed in hex."""
    address, _, port = word.partition(":")
    raw = b"".join(struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8))
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, raw), int(port, 16)


def parse_unix(text: str, file: str = "net/unix") -> tuple[UnixSocket, ...]:
    """UNIX sockets. Source: proc_pid_net(5)."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split(None, 7)
        if number == 1 or not fields:
            continue
        try:
            flags, kind, state, inode = int(fields[3], 16), int(fields[4], 16), int(fields[5], 16), int(fields[6])
        except (ValueError, IndexError):
            raise malformed(file, number, line) from None
        path = fields[7] if len(fields) > 7 else ""
        found.append(UnixSocket(inode, kind, bool(flags & UNIX_ACCEPTING), state == UNIX_CONNECTED, path))
    return tuple(found)


def parse_inodes(text: str, column: str, file: str) -> frozenset[int]:
    """Inodes in a table with a heading, for files of which only "is it one of these" matters (netlink, packet)."""
    lines = text.split("\n")
    heading = lines[0].split()
    if column not in heading:
        raise malformed(file, 1, lines[0])
    at = heading.index(column)
    found = set()
    for number, line in enumerate(lines[1:], 2):
        fields = line.split()
        if not fields:
            continue
        if len(fields) <= at or not fields[at].isdecimal():
            raise malformed(file, number, line)
        found.add(int(fields[at]))
    return frozenset(found)
