"""Options of sockets that the other host may not have: asked of the target's here, tried there with new sockets."""

import errno
import os
import socket
from collections.abc import Iterable, Iterator

from core.errors import Blocker
from core.images.pb.sockets_pb2 import SocketOption
from core.plan.chosen_options import IP_MULTICAST_IF, MEMBERSHIPS, name, read_chosen, value_here
from core.plan.memberships import read_memberships
from core.plan.socket_options import borrowed_socket, read_device
from core.preflight.records import OptionNeed
from core.resources import netlink_socket, tcp_socket, udp_socket, unix_socket
from core.resources.context import OpenFile, looking_at

IP = (socket.IPPROTO_IP, socket.IPPROTO_IPV6)
NAMES = ((socket.SOL_SOCKET, socket.SO_BINDTODEVICE), (socket.IPPROTO_TCP, socket.TCP_CONGESTION))
NUMBER_BYTES = 4
KINDS = (tcp_socket, udp_socket, unix_socket, netlink_socket)


def collect_options(files: Iterable[OpenFile]) -> tuple[OptionNeed, ...]:
    """Each once, whoever has it; but of connections, which are given up."""
    found: dict[OptionNeed, OptionNeed] = {}
    for file in files:
        if not any(kind.claims(file) for kind in KINDS):
            continue
        with looking_at(file), borrowed_socket(file.local_fd) as live:
            if tcp_socket.claims(file) and tcp_socket.read_status(live).connected:
                continue
            for option in _options(live):
                need = OptionNeed(
                    live.family, live.type, live.proto, option.level, option.option, option.value, option.interface
                )  # fmt: skip
                found.setdefault(need, need._replace(used_as=f"fd {file.fd}"))
    return tuple(found.values())


def _options(live: socket.socket) -> Iterator[SocketOption]:
    yield from read_chosen(live)
    if live.proto == socket.IPPROTO_UDP:
        yield from read_memberships(live)
    if live.family != socket.AF_UNIX and (device := read_device(live)):
        yield SocketOption(level=socket.SOL_SOCKET, option=socket.SO_BINDTODEVICE, value=device.encode() + b"\0")


def probe_options(needs: Iterable[OptionNeed]) -> tuple[tuple[OptionNeed, int], ...]:
    """Those that this kernel, or this network, does not take, and with which errno."""
    return tuple((need, error) for need in needs if (error := _try(need)))


def _try(need: OptionNeed) -> int:
    option = SocketOption(level=need.level, option=need.option, value=need.value, interface=need.interface)
    try:
        with socket.socket(need.domain, need.type, need.protocol) as probe:
            value = value_here(option)
            if not (need.option in MEMBERSHIPS and need.level in IP):  # the network is left alone
                probe.setsockopt(need.level, need.option, value)
    except OSError as error:
        return error.errno or errno.ENODEV  # if_nametoindex gives none
    return 0


def refuse_option(need: OptionNeed, error: int, hostname: str) -> Blocker:
    """One that cannot be set over there. Pure."""
    what = f"{name(need.level, need.option)} {_shown(need)}".rstrip()
    reason = f"its option {what} cannot be set on {hostname}: {os.strerror(error)}"
    hint = "give that host the module, the interface or the address that it means, or start the program without"
    return Blocker("socket-option", need.used_as, reason, hint)


def _shown(need: OptionNeed) -> str:
    """The value, where it says something to a person."""
    if need.interface:
        return need.interface
    if (need.level, need.option) == (socket.IPPROTO_IP, IP_MULTICAST_IF):
        return socket.inet_ntoa(need.value)
    if (need.level, need.option) in NAMES:
        return need.value.partition(b"\0")[0].decode(errors="replace")
    return str(int.from_bytes(need.value, "little")) if len(need.value) == NUMBER_BYTES else ""
