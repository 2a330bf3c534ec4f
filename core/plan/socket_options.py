"""Socket options and addresses, both ways: a live socket → image messages, image messages → ops.

What the socket kinds share. Knows nothing of states, queues or peers.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from core.images.pb.sockets_pb2 import IpOptsEntry, SkOptsEntry, TcpOptsEntry
from core.kernel.calls import address_of, syscall
from core.kernel.descriptors import Asked, Option, Questions
from core.plan.chosen_options import OPTIONS, chosen_ops, read_chosen
from core.plan.ops import Pointers, Program, Syscall

# From the kernel's uapi headers where Python's socket module lacks them.
SO_NO_CHECK: Final = 11
SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SO_GET_FILTER = SO_ATTACH_FILTER = 26
SO_LOCK_FILTER: Final = 44
SOCK_FPROG_SIZE: Final = 16  # struct sock_fprog
SO_BUF_LOCK: Final = 72
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_RECVERR: Final = 11
IP_FREEBIND: Final = 15
IPV6_MTU_DISCOVER: Final = 23
IPV6_RECVERR: Final = 25
WANT: Final = 1  # IP_PMTUDISC_WANT
SNDBUF_LOCKED, RCVBUF_LOCKED = 1, 2

# SkOptsEntry field, option: off (0) in a new socket, so only the others need a setsockopt.
FLAGS: Final = (
    ("reuseaddr", socket.SO_REUSEADDR),
    ("so_reuseport", socket.SO_REUSEPORT),
    ("so_passcred", socket.SO_PASSCRED),
    ("so_passsec", socket.SO_PASSSEC),
    ("so_dontroute", socket.SO_DONTROUTE),
    ("so_no_check", SO_NO_CHECK),
    ("so_broadcast", socket.SO_BROADCAST),
    ("so_keepalive", socket.SO_KEEPALIVE),
    ("so_oobinline", socket.SO_OOBINLINE),
    ("so_priority", socket.SO_PRIORITY),
    ("so_mark", socket.SO_MARK),
)
# SkOptsEntry field, TCP option, what the kernel takes when nobody asked: those are left to the host.
KEEPALIVE: Final = (
    ("tcp_keepcnt", socket.TCP_KEEPCNT, 9),
    ("tcp_keepidle", socket.TCP_KEEPIDLE, 7200),
    ("tcp_keepintvl", socket.TCP_KEEPINTVL, 75),
)
TCP_FLAGS: Final = (
    ("cork", socket.TCP_CORK),
    ("nodelay", socket.TCP_NODELAY),
    ("defer_accept_s", socket.TCP_DEFER_ACCEPT),
    ("fast_open_queue", socket.TCP_FASTOPEN),
    ("user_timeout_ms", socket.TCP_USER_TIMEOUT),
)
DEFAULT_TTL: Final = 64
SO_PEEK_OFF: Final = 42
SO_PEERCRED: Final = 17
DEVICE_GONE: Final = "socket that is bound to an interface which is gone (SO_BINDTODEVICE)"
DEVICE_HINT: Final = "close it, or start the program anew"
_GENERAL: Final = (
    (socket.SO_SNDBUF, 4), (socket.SO_RCVBUF, 4), (socket.SO_RCVLOWAT, 4), (socket.SO_RCVTIMEO, 16),
    (socket.SO_SNDTIMEO, 16), (socket.SO_LINGER, 8), (socket.SO_BINDTODEVICE, 16), (SO_BUF_LOCK, 4),
    *((option, 4) for _, option in FLAGS),
)  # fmt: skip
_OF_UNIX: Final = ((socket.SO_ACCEPTCONN, 4), (SO_PEERCRED, 12), (SO_PEEK_OFF, 4))
# IpOptsEntry field, level, option, what a new socket has.
_IPV4: Final = (
    ("recverr", socket.IPPROTO_IP, IP_RECVERR, 0), ("mtu_discover", socket.IPPROTO_IP, IP_MTU_DISCOVER, WANT),
)  # fmt: skip
_IPV6: Final = (
    ("v6_recverr", socket.IPPROTO_IPV6, IPV6_RECVERR, 0),
    ("v6_mtu_discover", socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, WANT),
    ("v6_recvpktinfo", socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 0),
    ("v6_tclass", socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0),
    ("v6_unicast_hops", socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, DEFAULT_TTL),
)
IP_NUMBERS: Final = {socket.AF_INET: _IPV4, socket.AF_INET6: (*_IPV4, *_IPV6)}
_OF_IP: Final = (IP_FREEBIND, socket.IP_TOS, socket.IP_TTL, IP_PKTINFO)
# What the kinds of sockets whose records tell all ask for below and in their modules.
LOOKED_AT: Final = Questions((
    *(Option(socket.AF_UNIX, 0, socket.SOL_SOCKET, option, size) for option, size in (*_GENERAL, *_OF_UNIX)),
    *(Option(family, socket.IPPROTO_UDP, socket.SOL_SOCKET, option, size)
      for family in (socket.AF_INET, socket.AF_INET6) for option, size in _GENERAL),
    *(Option(family, socket.IPPROTO_UDP, socket.IPPROTO_IP, option, 4)
      for family in (socket.AF_INET, socket.AF_INET6) for option in _OF_IP),
    *(Option(family, socket.IPPROTO_UDP, level, option, 4)
      for family, options in IP_NUMBERS.items() for _, level, option, _ in options),
    Option(socket.AF_INET6, socket.IPPROTO_UDP, socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 4),
    *(one for one in OPTIONS if one.domain == socket.AF_UNIX or one.protocol == socket.IPPROTO_UDP),
))  # fmt: skip


@contextmanager
def borrowed_socket(fd: int) -> Iterator[socket.socket]:
    """A socket object for a descriptor that somebody else closes."""
    live = socket.socket(fileno=fd)
    try:
        yield live
    finally:
        live.detach()


def read_buffer_sizes(live: socket.socket | Asked) -> SkOptsEntry:
    """The least that an image needs: buffer sizes as the kernel tunes them, no timeouts."""
    return SkOptsEntry(
        so_sndbuf=live.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF),
        so_rcvbuf=live.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        so_snd_tmo_sec=0, so_snd_tmo_usec=0, so_rcv_tmo_sec=0, so_rcv_tmo_usec=0, so_buf_lock=0,
    )  # fmt: skip


def read_options(live: socket.socket | Asked) -> SkOptsEntry:
    """The options that every socket has. Source: socket(7)."""
    options = read_buffer_sizes(live)
    options.so_rcvlowat = live.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
    options.so_rcv_tmo_sec, options.so_rcv_tmo_usec = _read_pair(live, socket.SO_RCVTIMEO, "qq")
    options.so_snd_tmo_sec, options.so_snd_tmo_usec = _read_pair(live, socket.SO_SNDTIMEO, "qq")
    for field, option in FLAGS:
        value = _read_optional(live, socket.SOL_SOCKET, option)
        if value is not None:
            setattr(options, field, value if field in ("so_oobinline", "so_priority", "so_mark") else bool(value))
    lingers, seconds = _read_pair(live, socket.SO_LINGER, "ii")
    if lingers:
        options.so_linger = seconds
    if device := read_device(live):
        options.so_bound_dev = device
    locked = _read_optional(live, socket.SOL_SOCKET, SO_BUF_LOCK)
    if locked is None:
        options.ClearField("so_buf_lock")
    else:
        options.so_buf_lock = locked
    options.chosen.extend(read_chosen(live))
    if isinstance(live, socket.socket):  # the record of one with a filter does not tell all
        options.so_filter.extend(_read_filter(live))
        if options.so_filter and live.getsockopt(socket.SOL_SOCKET, SO_LOCK_FILTER):
            options.so_lock_filter = True
    return options


def read_device(live: socket.socket | Asked) -> str | None:
    """The interface that it is bound to, "" for none; None for one that is gone."""
    try:
        return live.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).partition(b"\0")[0].decode()
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return None


def read_tcp_options(live: socket.socket, options: SkOptsEntry) -> TcpOptsEntry:
    """The options of TCP; those about keepalive go to `options`. Source: tcp(7)."""
    for field, option, default in KEEPALIVE:
        value = live.getsockopt(socket.IPPROTO_TCP, option)
        if value != default:
            setattr(options, field, value)
    tcp = TcpOptsEntry()
    for field, option in TCP_FLAGS:
        if chosen := _read_optional(live, socket.IPPROTO_TCP, option):
            setattr(tcp, field, chosen)
    return tcp


def read_ip_options(live: socket.socket | Asked) -> IpOptsEntry:
    """The options of IP that are not as in a new socket. Source: ip(7)."""
    entry = IpOptsEntry(freebind=bool(live.getsockopt(socket.IPPROTO_IP, IP_FREEBIND)))
    if tos := live.getsockopt(socket.IPPROTO_IP, socket.IP_TOS):
        entry.tos = tos
    ttl = live.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)
    if ttl != DEFAULT_TTL:
        entry.ttl = ttl
    if live.getsockopt(socket.IPPROTO_IP, IP_PKTINFO):
        entry.pktinfo = True
    for field, level, option, default in IP_NUMBERS[socket.AddressFamily(live.family)]:
        if (value := live.getsockopt(level, option)) != default:
            setattr(entry, field, value)
    return entry


def has_filter(live: socket.socket) -> bool:
    """True with a BPF program attached (SO_ATTACH_FILTER, SO_ATTACH_BPF)."""
    return filter_length(live) != 0


def filter_length(live: socket.socket) -> int | None:
    """Instructions of the classic BPF program attached; None: it is an eBPF one, which nobody can read."""
    length = bytearray(4)  # 0: only the number of instructions is asked for, and comes back here
    try:
        syscall("getsockopt", live.fileno(), socket.SOL_SOCKET, SO_GET_FILTER, 0, address_of(length))
    except OSError as error:
        if error.errno == errno.EACCES:
            return None
        raise
    return int.from_bytes(length, "little")


def _read_filter(live: socket.socket) -> list[int]:
    """The instructions, struct sock_filter as one word each."""
    count = filter_length(live) or 0
    content, length = bytearray(8 * count), bytearray(count.to_bytes(4, "little"))
    if count:
        syscall("getsockopt", live.fileno(), socket.SOL_SOCKET, SO_GET_FILTER, address_of(content), address_of(length))
    return list(struct.unpack(f"<{count}Q", content))


def option_ops(fd: int, options: SkOptsEntry, why: str) -> Program:
    """Everything in `options` that a new socket does not have already; before bind(2), which some of it governs."""
    ops = [set_option(fd, socket.SOL_SOCKET, option, getattr(options, field), why) for field, option in FLAGS
           if getattr(options, field)]  # fmt: skip
    ops += [*_filter_ops(fd, options, why), *_buffer_ops(fd, options, why)]
    if options.so_rcvlowat > 1:
        ops.append(set_option(fd, socket.SOL_SOCKET, socket.SO_RCVLOWAT, options.so_rcvlowat, why))
    for option, pair in (
        (socket.SO_RCVTIMEO, (options.so_rcv_tmo_sec, options.so_rcv_tmo_usec)),
        (socket.SO_SNDTIMEO, (options.so_snd_tmo_sec, options.so_snd_tmo_usec)),
    ):
        if any(pair):
            ops.append(set_option(fd, socket.SOL_SOCKET, option, struct.pack("<qq", *pair), why))
    if options.HasField("so_linger"):
        ops.append(set_option(fd, socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("<ii", 1, options.so_linger), why))
    if options.so_bound_dev:
        device = options.so_bound_dev.encode() + b"\0"
        ops.append(set_option(fd, socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device, why))
    return (*ops, *chosen_ops(fd, options.chosen, why))


def _filter_ops(fd: int, options: SkOptsEntry, why: str) -> Program:
    if not options.so_filter:
        return ()
    filter = Pointers((len(options.so_filter), struct.pack(f"<{len(options.so_filter)}Q", *options.so_filter)))
    where = (fd, socket.SOL_SOCKET, SO_ATTACH_FILTER)
    lock = (set_option(fd, socket.SOL_SOCKET, SO_LOCK_FILTER, 1, why),) if options.so_lock_filter else ()
    return (Syscall("setsockopt", (*where, filter, SOCK_FPROG_SIZE), f"{why}: BPF filter"), *lock)


def _buffer_ops(fd: int, options: SkOptsEntry, why: str) -> list[Syscall]:
    """Sizes that somebody chose; setting the others would end their tuning by the kernel.

    The kernel doubles what it is given. Without so_buf_lock (an old kernel, another tool) all count as chosen.
    """
    locked = options.so_buf_lock if options.HasField("so_buf_lock") else SNDBUF_LOCKED | RCVBUF_LOCKED
    sizes = ((SNDBUF_LOCKED, SO_SNDBUFFORCE, options.so_sndbuf), (RCVBUF_LOCKED, SO_RCVBUFFORCE, options.so_rcvbuf))
    return [set_option(fd, socket.SOL_SOCKET, option, size // 2, why) for bit, option, size in sizes if locked & bit]


def tcp_option_ops(fd: int, options: SkOptsEntry, tcp: TcpOptsEntry, why: str) -> Program:
    """The TCP options that differ from a new socket's."""
    ops = [set_option(fd, socket.IPPROTO_TCP, option, getattr(tcp, field), why) for field, option in TCP_FLAGS
           if getattr(tcp, field)]  # fmt: skip
    for field, option, _ in KEEPALIVE:
        newer = field.removeprefix("tcp_")
        value = getattr(options, field) or getattr(tcp, newer)
        if value:
            ops.append(set_option(fd, socket.IPPROTO_TCP, option, value, why))
    return tuple(ops)


def ip_option_ops(fd: int, ip: IpOptsEntry, why: str) -> Program:
    """The IP options that differ from a new socket's."""
    wanted = (
        (IP_FREEBIND, ip.freebind), (socket.IP_TOS, ip.tos), (socket.IP_TTL, ip.ttl),
        (IP_PKTINFO, ip.pktinfo),
    )  # fmt: skip
    numbers = [(level, option, getattr(ip, field)) for field, level, option, _ in IP_NUMBERS[socket.AF_INET6]
               if ip.HasField(field)]  # fmt: skip
    return (
        *(set_option(fd, socket.IPPROTO_IP, option, value, why) for option, value in wanted if value),
        *(set_option(fd, level, option, value, why) for level, option, value in numbers),
    )


def set_option(fd: int, level: int, option: int, value: int | bytes, why: str) -> Syscall:
    """setsockopt(2) with an int, or with a structure's bytes."""
    content = value if isinstance(value, bytes) else struct.pack("<i", value)
    return Syscall("setsockopt", (fd, level, option, content, len(content)), f"{why}: option {level}/{option}")


def address_words(address: str, family: int) -> list[int]:
    """An address as images hold it: 32-bit words of its bytes, read as a little-endian machine does."""
    packed = socket.inet_pton(family, address.partition("%")[0])
    return list(struct.unpack(f"<{len(packed) // 4}I", packed))


def address_text(words: list[int], family: int) -> str:
    """The opposite of `address_words`."""
    size = 1 if family == socket.AF_INET else 4
    return socket.inet_ntop(family, struct.pack(f"<{size}I", *words[:size]))


def inet_sockaddr(family: int, words: list[int], port: int) -> bytes:
    """struct sockaddr_in or sockaddr_in6. Source: ip(7), ipv6(7)."""
    head = struct.pack("<H", family) + struct.pack(">H", port)
    if family == socket.AF_INET:
        return head + struct.pack("<I8x", words[0])
    return head + struct.pack("<I4II", 0, *words, 0)


def _read_pair(live: socket.socket | Asked, option: int, layout: str) -> tuple[int, int]:
    raw = live.getsockopt(socket.SOL_SOCKET, option, struct.calcsize(layout))
    first, second = struct.unpack(layout, raw)
    return int(first), int(second)


def _read_optional(live: socket.socket | Asked, level: int, option: int) -> int | None:
    """None where this family or kernel does not have the option."""
    try:
        return live.getsockopt(level, option)
    except OSError as error:
        if error.errno in (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise
