"""Netlink sockets of protocols whose kernel half keeps nothing of a socket but what can be asked of it.

Source: netlink(7); linux/netlink.h.
"""

import os
import select
import socket
import struct
from typing import Final

from core.errors import Blocker
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.sockets_pb2 import NetlinkSkEntry
from core.kernel.pipe_content import polls
from core.plan.ops import FdAllocator, Program, Syscall
from core.plan.socket_options import borrowed_socket, filter_length, option_ops, read_options, set_option
from core.resources.context import OpenFile, OpenTable, looking_at, owner_and_flags_ops, read_owner

SOL_NETLINK: Final = 270
ADD_MEMBERSHIP, LIST_MEMBERSHIPS = 1, 9
GROUPS_ROOM: Final = 1024  # bytes, of bits
CARRIED: Final = {0: "NETLINK_ROUTE", 4: "NETLINK_SOCK_DIAG", 15: "NETLINK_KOBJECT_UEVENT"}
UNCONNECTED, CONNECTED = 0, 1
# NetlinkSkEntry field, option
FLAGS: Final = (
    ("pktinfo", 3), ("broadcast_error", 4), ("no_enobufs", 5), ("listen_all_nsid", 8), ("cap_ack", 10), ("ext_ack", 11),
    ("strict_check", 12),
)  # fmt: skip


def claims(file: OpenFile) -> bool:
    """By family."""
    return file.socket is not None and file.socket.domain == socket.AF_NETLINK


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Other protocols, filters, and messages that wait: nobody but the kernel can put them into a socket."""
    protocol = file.socket.protocol if file.socket is not None else -1
    if protocol not in CARRIED:
        reason = f"netlink socket of protocol {protocol}: carried are {', '.join(CARRIED.values())}"
        return file.blocker("netlink", reason, "the program must not hold it when it is migrated")
    with borrowed_socket(file.local_fd) as live:
        if filter_length(live) is None:
            return file.blocker("socket-filter", "netlink socket with an eBPF filter", "detach it")
    if polls(file.local_fd, select.POLLIN):
        reason = "messages wait in this netlink socket, and none can be put into another"
        return file.blocker("netlink-unread", reason, "try again when the program has read them")
    return None


def losses(table: OpenTable) -> list[str]:
    """Who listens hears of changes alone."""
    lost = []
    for file in filter(claims, table.files):
        with looking_at(file), borrowed_socket(file.local_fd) as live:
            if any(_memberships(live)):
                lost.append(f"{file.subject} listens to netlink: in what the new host differs, nobody tells it")
    return lost


def _memberships(live: socket.socket) -> tuple[int, ...]:
    """Words of 32 groups, without empty ones at the end."""
    content = live.getsockopt(SOL_NETLINK, LIST_MEMBERSHIPS, GROUPS_ROOM).rstrip(b"\0")
    return struct.unpack(f"<{-(-len(content) // 4)}I", content + bytes(-len(content) % 4))


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Address, groups, peer, options."""
    with borrowed_socket(file.local_fd) as live:
        portid, (peer, peer_groups) = live.getsockname()[0], live.getpeername()
        entry = NetlinkSkEntry(
            id=id, ino=file.stat.st_ino & 0xFFFFFFFF, protocol=live.proto, type=live.type, flags=file.flags,
            state=CONNECTED if peer or peer_groups else UNCONNECTED, portid=portid, groups=_memberships(live),
            dst_portid=peer, dst_group=peer_groups.bit_length(), fown=read_owner(file), opts=read_options(live),
        )  # fmt: skip
        for field, option in FLAGS:
            try:
                setattr(entry, field, bool(live.getsockopt(SOL_NETLINK, option)))
            except OSError:  # older than this kernel
                continue
    return FileEntry(type=FdTypes.NETLINKSK, id=id, nlsk=entry)


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """Make, set, bind to the number that answers are sent to, join groups, connect."""
    sock, fd = entry.nlsk, fds.take()
    made_with = sock.flags & os.O_NONBLOCK
    ops = [Syscall("socket", (socket.AF_NETLINK, (sock.type or socket.SOCK_RAW) | made_with, sock.protocol), why)]
    ops += option_ops(fd, sock.opts, why)
    ops += [set_option(fd, SOL_NETLINK, option, 1, why) for field, option in FLAGS if getattr(sock, field)]
    if sock.portid:
        ops.append(_address_op("bind", fd, sock.portid, 0, f"{why}: netlink port {sock.portid}"))
    joined = [32 * word + bit + 1 for word, bits in enumerate(sock.groups) for bit in range(32) if bits >> bit & 1]
    ops += [set_option(fd, SOL_NETLINK, ADD_MEMBERSHIP, group, f"{why}: group {group}") for group in joined]
    if sock.state == CONNECTED:
        groups = 1 << sock.dst_group - 1 if sock.dst_group else 0
        ops.append(_address_op("connect", fd, sock.dst_portid, groups, f"{why}: to port {sock.dst_portid}"))
    return (*ops, *owner_and_flags_ops(fd, sock.flags, sock.fown, made_with, why)), fd


def _address_op(call: str, fd: int, portid: int, groups: int, why: str) -> Syscall:
    address = struct.pack("<HHII", socket.AF_NETLINK, 0, portid, groups)  # struct sockaddr_nl
    return Syscall(call, (fd, address, len(address)), why)
