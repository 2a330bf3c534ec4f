"""Multicast groups that a UDP socket is in: asked of it group by group, as the options by which it joins them again.

Nobody tells a socket's groups; but asked for one, it tells whether it is in it. It can only be in those that an
interface is in. Source: ip(7); MCAST_MSFILTER in linux/in.h.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Final

from core.images.pb.sockets_pb2 import SocketOption
from core.kernel.calls import address_of, syscall
from core.plan.chosen_options import interface_name
from core.proc.multicast import Group, read_groups

SO_MEMINFO: Final = 55
OPTION_MEMORY: Final = 6  # SK_MEMINFO_OPTMEM: groups, filters, keys
MCAST_JOIN_GROUP, MCAST_BLOCK_SOURCE, MCAST_JOIN_SOURCE_GROUP, MCAST_MSFILTER = 42, 43, 46, 48
MCAST_INCLUDE: Final = 1
STORAGE: Final = 128  # struct sockaddr_storage
HEAD: Final = struct.Struct(f"<I4x{STORAGE}sII")  # struct group_filter without its sources
FEW_SOURCES: Final = 8  # mostly there is none; asking with room for thousands is slow, and all groups are asked for


def has_attached(live: socket.socket) -> bool:
    """Groups, a filter, keys: something that takes memory. Linux 4.12 and newer tell; of others it may be."""
    try:
        words = live.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    except OSError:
        return True
    return bool(struct.unpack_from("<I", words, 4 * OPTION_MEMORY)[0])


def read_memberships(live: socket.socket) -> Iterator[SocketOption]:
    """The options that make a new socket a member, with the sources that it wants or does not."""
    if not has_attached(live):
        return
    for group in dict.fromkeys(read_groups()):
        if len(group.address) == 16 and live.family != socket.AF_INET6:
            continue
        name = interface_name(group.interface)
        found = _ask(live, group)
        if found is None or not name:
            continue
        include, sources = found
        where, level = _sockaddr(group.address), _level(group)
        if not include:
            yield SocketOption(level=level, option=MCAST_JOIN_GROUP, value=bytes(8) + where, interface=name)
        option = MCAST_JOIN_SOURCE_GROUP if include else MCAST_BLOCK_SOURCE
        for source in sources:
            yield SocketOption(level=level, option=option, value=bytes(8) + where + source, interface=name)


def _ask(live: socket.socket, group: Group) -> tuple[bool, list[bytes]] | None:
    """Whether it wants what the sources send, or all else, and the sources, sockaddr_storage; None: not in it."""
    room = FEW_SOURCES
    try:
        while (answer := _ask_for(live, group, room))[1] > room:
            room = answer[1]
    except OSError as error:
        if error.errno in (errno.EADDRNOTAVAIL, errno.EINVAL, errno.ENODEV):
            return None
        raise
    mode, count, content = answer
    return mode == MCAST_INCLUDE, [bytes(content[STORAGE * at : STORAGE * (at + 1)]) for at in range(count)]


def _ask_for(live: socket.socket, group: Group, sources: int) -> tuple[int, int, bytearray]:
    """Mode, how many sources there are, and as many of these as asked for."""
    room = bytearray(HEAD.pack(group.interface, _sockaddr(group.address), 0, sources)) + bytes(sources * STORAGE)
    size = bytearray(struct.pack("<I", len(room)))
    syscall("getsockopt", live.fileno(), _level(group), MCAST_MSFILTER, address_of(room), address_of(size))
    _, _, mode, count = HEAD.unpack_from(room)
    return mode, count, room[HEAD.size :]


def _level(group: Group) -> int:
    return socket.IPPROTO_IP if len(group.address) == 4 else socket.IPPROTO_IPV6


def _sockaddr(address: bytes) -> bytes:
    """struct sockaddr_storage without a port."""
    head = struct.pack("<HH", socket.AF_INET, 0) if len(address) == 4 else struct.pack("<HHI", socket.AF_INET6, 0, 0)
    return (head + address).ljust(STORAGE, b"\0")
