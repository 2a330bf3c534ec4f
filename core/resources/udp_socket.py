"""UDP sockets, bound or not, with or without a peer. What waits in them is lost, as the network may lose anything."""

import os
import select
import socket
from typing import Final

from core.errors import Blocker, RestoreError
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.sockets_pb2 import InetSkEntry, SkShutdown
from core.kernel.descriptors import Asked, Sight
from core.plan.chosen_options import UDP_CORK
from core.plan.memberships import read_memberships
from core.plan.ops import FdAllocator, Program, Syscall
from core.plan.socket_options import (
    DEVICE_GONE,
    DEVICE_HINT,
    LOOKED_AT,
    address_words,
    borrowed_socket,
    filter_length,
    inet_sockaddr,
    ip_option_ops,
    option_ops,
    read_device,
    read_ip_options,
    read_options,
    set_option,
)
from core.resources.context import OpenFile, OpenTable, live_socket, looking_at, owner_and_flags_ops, read_owner

FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
CONNECTED, UNCONNECTED = 1, 7  # TCP_ESTABLISHED, TCP_CLOSE: the kernel has no other words for UDP
ANY: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
LINK_LOCAL: Final = "fe80:"


def claims(file: OpenFile) -> bool:
    """By family, type and protocol: a raw socket may have the same."""
    kind = file.socket
    is_datagram = kind is not None and (kind.type, kind.protocol) == (socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    return is_datagram and kind is not None and kind.domain in FAMILIES


def is_told(sight: Sight) -> bool:
    """The record tells all that refuse() asks and collect() takes."""
    head = sight.head
    kind = (head.type, head.protocol)
    attached = head.filter or head.option_memory
    if head.domain not in FAMILIES or kind != (socket.SOCK_DGRAM, socket.IPPROTO_UDP) or attached:
        return False
    asked = sight.asked(LOOKED_AT)
    is_local = any(address.startswith(LINK_LOCAL) for address, _ in (_here(asked), _peer(asked)))
    return not is_local and read_device(asked) is not None and not asked.getsockopt(socket.IPPROTO_UDP, UDP_CORK)


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Filters, addresses that mean an interface, interfaces that are gone, and datagrams in the making."""
    if file.sight is not None:
        return None
    with borrowed_socket(file.local_fd) as live:
        if filter_length(live) is None:
            return file.blocker("socket-filter", "UDP socket with an eBPF filter", "detach it")
        if any(address.startswith(LINK_LOCAL) for address, _ in (_here(live), _peer(live))):
            return file.blocker("socket-link-local", "UDP socket with a link-local address")
        if read_device(live) is None:
            return file.blocker("socket-device", f"UDP {DEVICE_GONE}", DEVICE_HINT)
        if live.getsockopt(socket.IPPROTO_UDP, UDP_CORK):
            reason = "UDP socket that puts a datagram together (UDP_CORK): nobody can tell what is in it"
            return file.blocker("udp-cork", reason, "try again when the program has sent it")
        return None


def losses(table: OpenTable) -> list[str]:
    """Datagrams and errors that wait now."""
    lost = []
    for file in filter(claims, table.files):
        with looking_at(file):
            with borrowed_socket(file.local_fd) as live:
                events = _polled(live)
            if events & select.POLLIN and not events & select.POLLRDHUP:
                lost.append(f"datagrams that wait in {file.subject} are lost")
            if events & select.POLLERR:
                lost.append(f"errors, or times of sending, that wait in {file.subject} are lost")
    return lost


def _here(live: socket.socket | Asked) -> tuple[str, int]:
    address, port = live.getsockname()[:2]
    return address, port


def _peer(live: socket.socket | Asked) -> tuple[str, int]:
    try:
        address, port = live.getpeername()[:2]
    except OSError:
        return ANY[socket.AddressFamily(live.family)], 0
    return address, port


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Addresses and options."""
    with live_socket(file) as live:
        family = live.family
        (source, source_port), (peer, peer_port) = _here(live), _peer(live)
        entry = InetSkEntry(
            id=id, ino=file.stat.st_ino & 0xFFFFFFFF, family=family, type=socket.SOCK_DGRAM,
            proto=socket.IPPROTO_UDP, state=CONNECTED if peer_port else UNCONNECTED, flags=file.flags, backlog=0,
            src_port=source_port, src_addr=address_words(source, family),
            dst_port=peer_port, dst_addr=address_words(peer, family),
            fown=read_owner(file), opts=read_options(live), ip_opts=read_ip_options(live), uid=file.stat.st_uid,
        )  # fmt: skip
        if isinstance(live, socket.socket):
            entry.opts.chosen.extend(read_memberships(live))
        if ended := _shutdown(live):
            entry.shutdown = ended
        if family == socket.AF_INET6:
            entry.v6only = bool(live.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        return FileEntry(type=FdTypes.INETSK, id=id, isk=entry)


def _shutdown(live: socket.socket | Asked) -> SkShutdown:
    """What was shut down(2), as poll(2) tells; the direction of sending alone it does not."""
    events = live.events if isinstance(live, Asked) else _polled(live)
    if events & select.POLLHUP:
        return SkShutdown.BOTH
    return SkShutdown.READ if events & select.POLLRDHUP else SkShutdown.NONE


def _polled(live: socket.socket) -> int:
    poller = select.poll()
    poller.register(live, select.POLLIN | select.POLLRDHUP)
    return dict(poller.poll(0)).get(live.fileno(), 0)


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """Make, set, bind, connect, which sends nothing, shut down."""
    sock = entry.isk
    if sock.family not in FAMILIES or len(sock.src_addr) < (1 if sock.family == socket.AF_INET else 4):
        raise RestoreError(f"{why}: family {sock.family} with {len(sock.src_addr)} address words cannot be UDP")
    fd = fds.take()
    made_with = sock.flags & os.O_NONBLOCK
    ops = [Syscall("socket", (sock.family, sock.type | made_with, sock.proto), why)]
    if sock.family == socket.AF_INET6 and sock.HasField("v6only"):
        ops.append(set_option(fd, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(sock.v6only), why))
    ops += option_ops(fd, sock.opts, why)
    ops += ip_option_ops(fd, sock.ip_opts, why)
    for call, words, port in (("bind", sock.src_addr, sock.src_port), ("connect", sock.dst_addr, sock.dst_port)):
        if port:
            address = inet_sockaddr(sock.family, list(words), port)
            ops.append(Syscall(call, (fd, address, len(address)), f"{why}: {call} port {port}"))
    if sock.shutdown:  # ENOTCONN is the answer of one without a peer, and still it is shut down
        ops.append(Syscall("shutdown", (fd, sock.shutdown - 1), f"{why}: shutdown", may_fail=True))
    return (*ops, *owner_and_flags_ops(fd, sock.flags, sock.fown, made_with, why)), fd
