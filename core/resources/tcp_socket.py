"""TCP sockets: listening, new, bound, and established ones that the user gave up (`--tcp close`).

A closed connection comes back as a new TCP socket that is shut down both ways: it reads end of file, writes EPIPE,
polls IN|OUT|HUP|RDHUP and takes TCP options, like one whose peer reset it (measured; a socket that never connected
reads ENOTCONN and polls no IN, a socket pair refuses TCP options). redis-server drops such a client at once and
serves on. Must not touch the connection at the source.
"""

import errno
import os
import select
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, assert_never

from core.errors import Blocker, RestoreError
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.sockets_pb2 import InetSkEntry, SkShutdown
from core.kernel.pipe_content import polls
from core.options import TcpChoice
from core.plan.ops import FdAllocator, Program, Syscall
from core.plan.socket_options import (
    DEVICE_GONE,
    DEVICE_HINT,
    address_text,
    address_words,
    borrowed_socket,
    filter_length,
    inet_sockaddr,
    ip_option_ops,
    option_ops,
    read_buffer_sizes,
    read_device,
    read_ip_options,
    read_options,
    read_tcp_options,
    set_option,
    tcp_option_ops,
)
from core.resources.context import OpenFile, OpenTable, looking_at, owner_and_flags_ops, read_owner

FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
TCP_INFO_SIZE: Final = 32
UNACKED_OFFSET: Final = 24  # tcpi_unacked, tcpi_sacked: of a listening socket the queue's length and its limit
LINK_LOCAL: Final = "fe80:"
SHOWN: Final = 5


class State(IntEnum):
    """Those states of TCP that mean something to us. Source: net/tcp_states.h of the kernel."""

    ESTABLISHED = 1
    CLOSE = 7
    LISTEN = 10


@dataclass(frozen=True, slots=True)
class TcpStatus:
    """What TCP_INFO says; `waiting` and `backlog` only of a listening socket."""

    state: int
    waiting: int
    backlog: int

    @property
    def connected(self) -> bool:
        """True in every state that knows a peer."""
        return self.state not in (State.CLOSE, State.LISTEN)


def claims(file: OpenFile) -> bool:
    """By family and protocol; Multipath TCP is another."""
    kind = file.socket
    return kind is not None and kind.domain in FAMILIES and kind.protocol == socket.IPPROTO_TCP


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Connections as `--tcp` says, filters, and addresses that mean an interface."""
    with borrowed_socket(file.local_fd) as live:
        status = read_status(live)
        if status.connected:
            return _refuse_connection(file, table.options.tcp, f"established TCP connection {describe(live)}")
        if filter_length(live) is None:
            return file.blocker("socket-filter", f"TCP socket {describe(live)} has an eBPF filter", "detach it")
        if read_device(live) is None and not _is_shut(live):
            return file.blocker("socket-device", f"TCP {DEVICE_GONE}", DEVICE_HINT)
        if live.getsockname()[0].startswith(LINK_LOCAL):
            return file.blocker("socket-link-local", f"bound to the link-local address {describe(live)}")
        if status.state == State.LISTEN and status.waiting:
            waiting = f"{status.waiting} connections to {describe(live)} wait for accept"
            return _refuse_connection(file, table.options.tcp, waiting)
        return None


def _refuse_connection(file: OpenFile, tcp: TcpChoice, reason: str) -> Blocker | None:
    match tcp:
        case "close":
            return None
        case "refuse":
            return file.blocker("tcp-established", reason, "--tcp close: the program finds it closed by its peer")
        case "established":
            return file.blocker("tcp-established", reason, "--tcp established is coming; --tcp close drops it")
        case _:
            assert_never(tcp)


def read_status(live: socket.socket) -> TcpStatus:
    """State by TCP_INFO; needs no netlink and no network namespace. Source: tcp(7)."""
    raw = live.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
    waiting, backlog = struct.unpack_from("<II", raw, UNACKED_OFFSET)
    return TcpStatus(raw[0], waiting, backlog) if raw[0] == State.LISTEN else TcpStatus(raw[0], 0, 0)


def describe(live: socket.socket) -> str:
    """local address, or local ↔ peer."""
    here = _endpoint(live.getsockname())
    try:
        return f"{here} ↔ {_endpoint(live.getpeername())}"
    except OSError:
        return here


def _endpoint(address: tuple[str, int]) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Addresses, state and options; nothing of what is on its way."""
    with borrowed_socket(file.local_fd) as live:
        status = read_status(live)
        family = live.family
        entry = InetSkEntry(
            id=id, ino=file.stat.st_ino & 0xFFFFFFFF, family=family, type=socket.SOCK_STREAM,
            proto=socket.IPPROTO_TCP, state=status.state, flags=file.flags, backlog=status.backlog,
            fown=read_owner(file), opts=read_buffer_sizes(live), uid=file.stat.st_uid,
        )  # fmt: skip
        if not status.connected:
            _collect_options(live, entry)
        address, entry.src_port = live.getsockname()[:2]
        entry.src_addr.extend(address_words(address, family))
        peer, entry.dst_port = _peer(live)
        entry.dst_addr.extend(address_words(peer, family))
        if family == socket.AF_INET6:
            entry.v6only = bool(live.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        if status.state == State.CLOSE and _is_shut(live):
            entry.shutdown = SkShutdown.BOTH
        return FileEntry(type=FdTypes.INETSK, id=id, isk=entry)


def _collect_options(live: socket.socket, entry: InetSkEntry) -> None:
    """Not of a connection that is given up: of those there are many, and they cost time while the task is frozen."""
    entry.opts.CopyFrom(read_options(live))
    entry.ip_opts.CopyFrom(read_ip_options(live))
    entry.tcp_opts.CopyFrom(read_tcp_options(live, entry.opts))


def _peer(live: socket.socket) -> tuple[str, int]:
    try:
        address, port = live.getpeername()[:2]
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return ("0.0.0.0" if live.family == socket.AF_INET else "::"), 0
    return address, port


def _is_shut(live: socket.socket) -> bool:
    """True for a connection that has ended, false for a socket that never had one; both are in state CLOSE."""
    poller = select.poll()
    poller.register(live.fileno(), select.POLLRDHUP)
    return any(events & select.POLLRDHUP for _, events in poller.poll(0))


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """As listening, as bound, or as ended: see the module's text."""
    sock = entry.isk
    _check(sock, why)
    fd = fds.take()
    made_with = sock.flags & os.O_NONBLOCK
    ops = [Syscall("socket", (sock.family, sock.type | made_with, sock.proto), why)]
    if sock.family == socket.AF_INET6 and sock.HasField("v6only"):
        ops.append(set_option(fd, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(sock.v6only), why))
    ops += option_ops(fd, sock.opts, why)
    ops += ip_option_ops(fd, sock.ip_opts, why)
    ops += tcp_option_ops(fd, sock.opts, sock.tcp_opts, why)
    if sock.state not in (State.CLOSE, State.LISTEN) or sock.shutdown == SkShutdown.BOTH:
        # ENOTCONN is its answer, and still it marks both directions as ended.
        ops.append(Syscall("shutdown", (fd, socket.SHUT_RDWR), f"{why}: ended", may_fail=True))
    elif sock.src_port:
        ops += _bind_ops(fd, sock, why)
    return (*ops, *owner_and_flags_ops(fd, sock.flags, sock.fown, made_with, why)), fd


def _check(sock: InetSkEntry, why: str) -> None:
    if sock.family not in FAMILIES or len(sock.src_addr) < (1 if sock.family == socket.AF_INET else 4):
        raise RestoreError(f"{why}: family {sock.family} with {len(sock.src_addr)} address words cannot be TCP")


def _bind_ops(fd: int, sock: InetSkEntry, why: str) -> Program:
    """SO_REUSEADDR while binding: connections that ended a minute ago on this host must not hold the port."""
    address = inet_sockaddr(sock.family, list(sock.src_addr), sock.src_port)
    where = f"{why}: {address_text(list(sock.src_addr), sock.family)} port {sock.src_port}"
    ops = [
        set_option(fd, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1, why),
        Syscall("bind", (fd, address, len(address)), where),
    ]
    if sock.state == State.LISTEN:
        ops.append(Syscall("listen", (fd, sock.backlog), where))
    if not sock.opts.reuseaddr:
        ops.append(set_option(fd, socket.SOL_SOCKET, socket.SO_REUSEADDR, 0, why))
    return tuple(ops)


def losses(table: OpenTable) -> list[str]:
    """What `--tcp close` gives up, and errors that nobody has asked for (SO_ERROR)."""
    lost = []
    connections: list[str] = []
    for file in filter(claims, table.files):
        with looking_at(file), borrowed_socket(file.local_fd) as live:
            status = read_status(live)
            if status.connected:
                connections.append(f"fd {file.fd}: {describe(live)}")
            if status.state == State.CLOSE and polls(file.local_fd, select.POLLERR):
                lost.append(f"the error that waits in fd {file.fd} is lost: it is found closed by its peer")
            if status.waiting:
                lost.append(f"{status.waiting} connections waiting for accept are lost: fd {file.fd}, {describe(live)}")
    if connections:
        shown = ", ".join(connections[:SHOWN]) + (", …" if len(connections) > SHOWN else "")
        lost.append(f"{len(connections)} TCP connections will be closed: {shown}")
    return lost


def is_connection(sock: InetSkEntry) -> bool:
    """True for an entry that was a connection when it was collected."""
    return sock.proto == socket.IPPROTO_TCP and sock.state not in (State.CLOSE, State.LISTEN)
