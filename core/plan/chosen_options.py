"""Socket options that the format has no field for: each that is not as in a new socket of its kind goes along as it is.

Asked are those that can be asked and set again. What means an interface goes by its name.
"""

import errno
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import zip_longest
from typing import Final, Protocol

from core.errors import RestoreError
from core.images.pb.sockets_pb2 import SocketOption
from core.kernel.descriptors import Option
from core.plan.ops import Program, Syscall

# From the kernel's uapi headers: asm-generic/socket.h, linux/in.h, in6.h, tcp.h, udp.h.
SO_PEEK_OFF: Final = 42
SO_TIMESTAMPING: Final = (37, 65)  # old and new
SO_MAX_PACING_RATE, SO_TXTIME = 47, 61
IP_TRANSPARENT: Final = 19
IP_MULTICAST_IF, IP_UNICAST_IF = 32, 50  # of the first the address; one set by number alone cannot be asked
IPV6_MULTICAST_IF, IPV6_UNICAST_IF = 17, 76
UDP_CORK: Final = 1
# JOIN_GROUP, BLOCK_SOURCE, JOIN_SOURCE_GROUP: of memberships in groups, which cannot be asked as these options
MEMBERSHIPS: Final = {42: "MCAST_JOIN_GROUP", 43: "MCAST_BLOCK_SOURCE", 46: "MCAST_JOIN_SOURCE_GROUP"}
TCP_MAXSEG, TCP_WINDOW_CLAMP = 2, 10  # of a socket that was connected they tell of that connection
# SOF_TIMESTAMPING_OPT_ID, _OPT_ID_TCP: they number the bytes of a connection, and cannot be set without one
OF_A_CONNECTION: Final = (1 << 7 | 1 << 16).to_bytes(8, "little")
# SO_TIMESTAMPING, SO_TIMESTAMP and SO_TIMESTAMPNS, each of old and new: in this order the last that is set decides
# about the layout of all of them, as it did. Then SO_PASSPIDFD, SO_PASSRIGHTS.
_TIMESTAMPS: Final = ((37, 8), (65, 8), (29, 4), (35, 4), (63, 4), (64, 4))
_OF_UNIX: Final = (*_TIMESTAMPS[2:], (76, 4), (83, 4))
# Lines name the options in the order of their numbers.
_OF_ALL: Final = (
    *_TIMESTAMPS, (SO_MAX_PACING_RATE, 8), (SO_TXTIME, 8),
    # RXQ_OVFL, SELECT_ERR_QUEUE, BUSY_POLL, ZEROCOPY, PREFER_BUSY_POLL, BUSY_POLL_BUDGET, TXREHASH, RCVMARK,
    # RCVPRIORITY
    *((option, 4) for option in (40, 45, 46, 60, 69, 70, 74, 75, 82)),
)  # fmt: skip
_IPV4: Final = (
    # RECVOPTS, RETOPTS, RECVTTL, RECVTOS, PASSSEC, RECVORIGDSTADDR, MINTTL, CHECKSUM,
    # BIND_ADDRESS_NO_PORT, RECVFRAGSIZE, RECVERR_RFC4884
    6, 7, 12, 13, 18, IP_TRANSPARENT, 20, 21, 23, 24, 25, 26,
    # LOCAL_PORT_RANGE
    IP_UNICAST_IF, 51,
)  # fmt: skip
_IPV6: Final = (
    # RECVERR_RFC4884, FLOWINFO_SEND, RECVHOPLIMIT, RECVHOPOPTS
    31, 33, 51, 53,
    # RECVRTHDR, RECVDSTOPTS, RECVPATHMTU, DONTFRAG, RECVTCLASS, AUTOFLOWLABEL, ADDR_PREFERENCES, MINHOPCOUNT
    56, 58, 60, 62, 66, 70, 72, 73,
    # RECVORIGDSTADDR, TRANSPARENT, RECVFRAGSIZE, FREEBIND
    74, 75, IPV6_UNICAST_IF, 77, 78,
)  # fmt: skip
# TTL or HOPS, LOOP, ALL: a connection that was accepted has there what came with it
_MULTICAST: Final = {
    socket.IPPROTO_IP: (IP_MULTICAST_IF, 33, 34, 49), socket.IPPROTO_IPV6: (IPV6_MULTICAST_IF, 18, 19, 29),
}  # fmt: skip
_TCP: Final = (
    # SYNCNT, LINGER2, THIN_LINEAR_TIMEOUTS, THIN_DUPACK, NOTSENT_LOWAT, SAVE_SYN, FASTOPEN_CONNECT,
    # FASTOPEN_NO_COOKIE, INQ, TX_DELAY, RTO_MAX_MS, RTO_MIN_US, DELACK_MAX_US; CONGESTION, FASTOPEN_KEY
    *((option, 4) for option in (7, 8, 16, 17, 25, 27, 30, 34, 36, 37, 44, 45, 46)), (13, 16), (33, 32),
    *((option, 4) for option in (TCP_MAXSEG, TCP_WINDOW_CLAMP)),
)  # fmt: skip
_UDP: Final = (UDP_CORK, 100, 101, 102, 103, 104)  # ENCAP, NO_CHECK6_TX, NO_CHECK6_RX, SEGMENT, GRO
_NAMES: Final = {
    (socket.IPPROTO_TCP, 13): "TCP_CONGESTION", (socket.SOL_SOCKET, socket.SO_BINDTODEVICE): "SO_BINDTODEVICE",
    (socket.IPPROTO_IP, IP_TRANSPARENT): "IP_TRANSPARENT", (socket.IPPROTO_IP, IP_MULTICAST_IF): "IP_MULTICAST_IF",
    (socket.IPPROTO_IPV6, IPV6_MULTICAST_IF): "IPV6_MULTICAST_IF", (socket.IPPROTO_IP, IP_UNICAST_IF): "IP_UNICAST_IF",
    (socket.IPPROTO_IPV6, IPV6_UNICAST_IF): "IPV6_UNICAST_IF",
}  # fmt: skip


def _of_inet(family: int) -> Iterator[Option]:
    levels = {socket.IPPROTO_IP: _IPV4} | ({socket.IPPROTO_IPV6: _IPV6} if family == socket.AF_INET6 else {})
    own = {socket.IPPROTO_TCP: _TCP, socket.IPPROTO_UDP: tuple((option, 4) for option in _UDP)}
    for protocol, of_protocol in own.items():
        yield from (Option(family, protocol, socket.SOL_SOCKET, option, size) for option, size in _OF_ALL)
        for level, options in levels.items():
            yield from (Option(family, protocol, level, option, 4) for option in options)
        yield from (Option(family, protocol, protocol, option, size) for option, size in of_protocol)
    yield Option(family, socket.IPPROTO_UDP, socket.SOL_SOCKET, SO_PEEK_OFF, 4)
    for level in levels:
        yield from (Option(family, socket.IPPROTO_UDP, level, option, 4) for option in _MULTICAST[level])


OPTIONS: Final = (
    *(Option(socket.AF_UNIX, 0, socket.SOL_SOCKET, option, size) for option, size in _OF_UNIX),
    *(Option(socket.AF_NETLINK, 0, socket.SOL_SOCKET, option, size) for option, size in _OF_ALL),
    *_of_inet(socket.AF_INET),
    *_of_inet(socket.AF_INET6),
)
# What begins with the number of an interface: the order of its bytes.
_INTERFACES: Final = {
    (socket.IPPROTO_IP, IP_UNICAST_IF): ">I",
    (socket.IPPROTO_IPV6, IPV6_MULTICAST_IF): "<I",
    (socket.IPPROTO_IPV6, IPV6_UNICAST_IF): ">I",
} | {(level, option): "<I" for level in (socket.IPPROTO_IP, socket.IPPROTO_IPV6) for option in MEMBERSHIPS}


class Asking(Protocol):
    """A socket, or what one has answered."""

    @property
    def family(self) -> int: ...
    @property
    def type(self) -> int: ...
    @property
    def proto(self) -> int: ...
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def read_chosen(live: Asking) -> Iterator[SocketOption]:
    """What is not as in a new socket."""
    family, protocol = live.family, live.proto  # a socket object takes its time for these
    new = answers_of_new(family, live.type, protocol)
    for asked in _options_of(family, protocol):
        if _tells_of_the_past(live, asked):
            continue
        value = _ask(live, asked)
        if value and asked.option in SO_TIMESTAMPING and asked.level == socket.SOL_SOCKET:
            value = _without_numbering(live, value)
        if value is None or value == new.get((asked.level, asked.option)):
            continue
        if asked.option == SO_PEEK_OFF and asked.level == socket.SOL_SOCKET:
            value = bytes(4)  # what was peeked at is lost
        entry = _entry(asked.level, asked.option, value)
        if entry.interface or not _index(entry):  # one that is gone is nothing to be told of, and its number another's
            yield entry


def _tells_of_the_past(live: Asking, asked: Option) -> bool:
    is_such = asked.level == socket.IPPROTO_TCP and asked.option in (TCP_MAXSEG, TCP_WINDOW_CLAMP)
    return is_such and live.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN, 4) == bytes(4)


def _without_numbering(live: Asking, value: bytes) -> bytes:
    """Of TCP: a connection is read when it has ended."""
    of_connection = OF_A_CONNECTION if live.proto == socket.IPPROTO_TCP else b""
    return bytes(one & ~other for one, other in zip_longest(value, of_connection, fillvalue=0))


def _entry(level: int, option: int, value: bytes) -> SocketOption:
    entry = SocketOption(level=level, option=option, value=value)
    if found := interface_name(_index(entry)):
        entry.interface = found
    return entry


def _index(entry: SocketOption) -> int:
    """Of the interface that is meant; 0: of none."""
    order = _INTERFACES.get((entry.level, entry.option))
    return int(struct.unpack_from(order, entry.value)[0]) if order else 0


def interface_name(index: int) -> str:
    """ "" of none, or of one that is gone: no socket can be told of that."""
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:
        return ""


@cache
def answers_of_new(family: int, type: int, protocol: int) -> Mapping[tuple[int, int], bytes | None]:
    """Those of a new socket, which the host's settings decide about: by level and option. OSError."""
    with socket.socket(family, type, protocol) as live:
        return {(one.level, one.option): _ask(live, one) for one in _options_of(family, protocol)}


def has_options(family: int, protocol: int) -> bool:
    """Such sockets have some of these."""
    return bool(_options_of(family, protocol))


@cache
def _options_of(family: int, protocol: int) -> tuple[Option, ...]:
    return tuple(one for one in OPTIONS if one.is_of(family, protocol))


def _ask(live: Asking, asked: Option) -> bytes | None:
    """None where this kernel, or this kind of socket, has it not."""
    try:
        return live.getsockopt(asked.level, asked.option, asked.size)
    except OSError as error:
        if error.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise


def value_here(entry: SocketOption) -> bytes:
    """As this host's kernel takes it. OSError: it has no such interface."""
    order = _INTERFACES.get((entry.level, entry.option))
    if not order or not entry.interface:
        return entry.value
    return struct.pack(order, socket.if_nametoindex(entry.interface)) + entry.value[4:]


def name(level: int, option: int) -> str:
    """How messages call it."""
    of_group = MEMBERSHIPS.get(option) if level in (socket.IPPROTO_IP, socket.IPPROTO_IPV6) else None
    return of_group or _NAMES.get((level, option), f"{level}/{option}")


def chosen_ops(fd: int, options: Sequence[SocketOption], why: str) -> Program:
    """Set them again."""
    ops = []
    for one in options:
        about = f"{why}: {name(one.level, one.option)}"
        try:
            value = value_here(one)
        except OSError as error:
            raise RestoreError(f"{about}: there is no interface {one.interface} here") from error
        ops.append(Syscall("setsockopt", (fd, one.level, one.option, value, len(value)), about))
    return tuple(ops)
