"""What the kernel has of the sockets of a process: which are alike in the options that they would answer with.

By a BPF program that goes over its open files, in well below 1 µs each; it is attached to nothing and changes nothing.
What the kernel has is compared, not understood: sockets of which it is the same to the byte give the same answers about
the options that have been seen to show there (core.kernel.socket_trials). It takes Linux 6.1, with BTF.
Source: struct sock in net/sock.h, inet_sock.h, linux/udp.h, linux/ipv6.h.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from typing import Any, Final

from core.errors import KernelLacks
from core.kernel.bpf import (
    ARRAY,
    RETURN_ZERO,
    SOCK_FROM_FILE,
    TASK_FILES,
    call,
    copy_bytes,
    copy_number,
    instruction,
    link_iterator,
    load_iterator,
    load_map,
    make_map,
    opened,
    read_iterator,
    return_if_zero,
    unless_zero,
    write_out,
)
from core.kernel.btf import read_layout
from core.native._kernel import ffi, lib

ROOM: Final = 4096
RECORD_ROOM: Final = 1024  # of that; what the kernel has is copied behind it
MOST_KINDS: Final = int(lib.MG_MOST_KINDS)
HEAD: Final = int(ffi.sizeof("struct mg_socket_record"))
# What decides about answers, as sizes in bytes: a pointer stands for what it leads to. What a kernel has not is left
# out: an option that does not show then is asked of every socket.
COMMON: Final = {
    "skc_family": 2, "skc_state": 1, "skc_reuse": 1, "skc_bound_dev_if": 4, "skc_net": 8, "skc_flags": 8,
}  # fmt: skip
SOCK: Final = {
    "sk_peek_off": 4, "sk_ll_usec": 4, "sk_busy_poll_budget": 2, "sk_prefer_busy_poll": 1, "sk_userlocks": 1,
    "sk_rcvbuf": 4, "sk_filter": 8, "sk_rcvtimeo": 8, "sk_rcvlowat": 4, "sk_reserved_mem": 4, "sk_tsflags": 4,
    "sk_omem_alloc": 4, "sk_max_pacing_rate": 8, "sk_sndtimeo": 8, "sk_priority": 4, "sk_mark": 4, "sk_protocol": 2,
    "sk_type": 2, "sk_dst_cache": 8, "sk_sndbuf": 4, "sk_no_check_tx": 1, "sk_shutdown": 1, "sk_lingertime": 8,
    "sk_bind_phc": 4, "sk_peer_pid": 8, "sk_peer_cred": 8, "sk_txrehash": 1, "sk_scm_recv_flags": 1, "sk_clockid": 1,
    "sk_txtime_deadline_mode": 1, "sk_reuseport_cb": 8,
}  # fmt: skip
INET: Final = {
    "inet_flags": 8, "uc_ttl": 2, "cmsg_flags": 2, "inet_opt": 8, "tos": 1, "min_ttl": 1, "mc_ttl": 1,
    "pmtudisc": 1, "recverr": 1, "bind_address_no_port": 1, "rcv_tos": 1, "convert_csum": 1, "uc_index": 4,
    "mc_index": 4, "mc_addr": 4, "local_port_range": 4, "mc_list": 8, "ipv6_fl_list": 8,
}  # fmt: skip
UDP: Final = {
    "udp_flags": 8, "pending": 4, "corkflag": 1, "encap_type": 1, "gso_size": 2, "pcflag": 1, "encap_enabled": 1,
}  # fmt: skip
INET6: Final = {
    "flow_label": 4, "opt": 8, "hop_limit": 2, "pmtudisc": 1, "tclass": 1, "mcast_hops": 2, "frag_size": 4,
    "ucast_oif": 4, "mcast_oif": 4, "rxopt": 4, "srcprefs": 1, "min_hopcount": 1, "rcv_flowinfo": 4,
    "ipv6_mc_list": 8, "ipv6_ac_list": 8, "ipv6_fl_list": 8, "mc_loop": 1, "recverr": 2,
}  # fmt: skip
BY_STRUCT: Final = {"sock_common": COMMON, "sock": SOCK, "inet_sock": INET, "udp_sock": UDP, "ipv6_pinfo": INET6}
# By name, too, what nobody can try: the peer's credentials, and that it listens; and what is no option: its filter.
NEEDED: Final = {
    "sock_common": ("skc_family", "skc_state"),
    "sock": ("sk_protocol", "sk_peer_pid", "sk_peer_cred", "sk_filter", "sk_omem_alloc"),
    "inet_sock": ("pinet6",), "socket": ("sk", "flags"),
}  # fmt: skip
HOLDERS: Final = ("f_count", "f_ref")  # of struct file, by its age
Fields = list[tuple[int, int]]  # offset, size


@cache
def _layout() -> tuple[dict[str, dict[str, int]], int]:
    """Offsets, and the number of TASK_FILES's type; some 0.15 s. KernelLacks."""
    optional = {**{name: tuple(fields) for name, fields in BY_STRUCT.items()}, "file": HOLDERS}
    offsets, functions = read_layout(NEEDED, (TASK_FILES,), optional)
    return offsets, functions[TASK_FILES]


def _fields(*structs: str) -> Fields:
    """Of structs that begin with one another."""
    offsets, _ = _layout()
    there = ((offsets[name], BY_STRUCT[name]) for name in structs)
    return [(known[field], size) for known, sizes in there for field, size in sizes.items() if field in known]


def _end(fields: Fields) -> int:
    return max((offset + size for offset, size in fields), default=0) + 7 & ~7


def _pick(place: int, start: int, fields: Fields) -> bytes:
    """Fields of what lies at `start`, one behind the other to `place`."""
    code = b""
    for offset, size in fields:
        code += copy_number(8, place, size, 8, start + offset)
        place += size
    return code


def _size(fields: Fields) -> int:
    return sum(size for _, size in fields)


def _clear(start: int, end: int) -> bytes:
    return b"".join(instruction(0x7A, 8, 0, place) for place in range(start, end, 8))


@cache
def _program() -> tuple[bytes, int, bytes]:
    """Its code as far as the map's address, the size of a record, and the rest of the code. Register 6: context, 7:
    socket, 8: the map's value, 9: file, then sock, then ipv6_pinfo. KernelLacks: fields do not lie as expected."""
    offsets, _ = _layout()
    holders = next((offsets["file"][name] for name in HOLDERS if name in offsets["file"]), None)
    sock, inet, inet6 = _fields("sock_common", "sock"), _fields("inet_sock", "udp_sock"), _fields("ipv6_pinfo")
    first, whole, behind = _end(sock), _end(inet), RECORD_ROOM
    behind6 = behind + whole
    at_sock, at_inet = HEAD + 8, HEAD + 8 + _size(sock)
    at_inet6 = at_inet + _size(inet)
    size = at_inet6 + _size(inet6) + 7 & ~7
    if holders is None or behind6 + _end(inet6) > ROOM or size > RECORD_ROOM or first > whole:
        raise KernelLacks("records of sockets", "structs of sockets are not as expected")
    code = instruction(0x61, 1, 6, 16) + instruction(0x63, 8, 1, 0)  # context->fd
    code += copy_bytes(8, 8, 8, 9, holders) + copy_bytes(8, HEAD, 8, 7, offsets["socket"]["flags"])
    code += instruction(0x79, 9, 7, offsets["socket"]["sk"]) + return_if_zero(9)
    code += copy_bytes(8, behind, first, 9, 0) + _clear(at_inet & ~7, size) + _pick(at_sock, behind, sock)
    udp = instruction(0x69, 1, 8, behind + offsets["sock"]["sk_protocol"])
    udp += instruction(0x15, 1, 0, 2, socket.IPPROTO_UDP) + RETURN_ZERO
    udp += copy_bytes(8, behind + first, whole - first, 9, first) + _clear(behind6, behind6 + _end(inet6))
    udp += instruction(0x79, 9, 8, behind + offsets["inet_sock"]["pinet6"])
    udp += unless_zero(9, copy_bytes(8, behind6, _end(inet6), 9, 0))
    udp += _pick(at_inet, behind, inet) + _pick(at_inet6, behind6, inet6)
    code += instruction(0x69, 1, 8, behind + offsets["sock_common"]["skc_family"])
    code += instruction(0x15, 1, 0, 4 + len(udp) // 8, socket.AF_UNIX)
    code += instruction(0x15, 1, 0, 3, socket.AF_INET) + instruction(0x15, 1, 0, 2, socket.AF_INET6) + RETURN_ZERO
    code += udp
    code += write_out(6, 8, size)
    start = instruction(0xBF, 6, 1) + instruction(0x79, 9, 6, 24) + return_if_zero(9)  # context->file
    start += instruction(0xBF, 1, 9) + call(SOCK_FROM_FILE) + return_if_zero(0) + instruction(0xBF, 7, 0)
    return start, size, code


class SocketRecords:
    """See open_socket_records()."""

    def __init__(self, stack: ExitStack) -> None:
        start, self.size, code = _program()
        code = start + load_map(8, make_map(stack, ARRAY, ROOM), value=True) + code + RETURN_ZERO
        self._program = load_iterator(stack, code, _layout()[1])
        self._alone = self._holders_of_one()

    def _holders_of_one(self) -> int:
        """What is counted of a file that one descriptor leads to."""
        task = self.open_task(os.getpid())
        try:
            with socket.socket(socket.AF_UNIX) as one:
                found = {fd: holders for fd, holders, _ in self._rows(task)}
                if one.fileno() not in found:
                    raise KernelLacks("records of sockets", "they do not tell of ours")
                return found[one.fileno()]
        finally:
            os.close(task)

    def open_task(self, pid: int) -> int:
        """What the others take for a task; the caller closes it. OSError."""
        return link_iterator(self._program, tid=pid)

    def _rows(self, task: int) -> Iterator[tuple[int, int, bytes]]:
        """Descriptor, holders, and what is compared, of each socket of UDP and AF_UNIX, by descriptor."""
        return struct.iter_unpack(f"<i4xq{self.size - HEAD}s", read_iterator(task))

    def known(self, task: int) -> dict[int, bytes]:
        """What is compared of each socket, by descriptor. OSError."""
        return {fd: content for fd, _, content in self._rows(task)}

    def kinds(self, task: int, fds: Any) -> Any:
        """For look(): of each descriptor in an array, ascending, the number that those have which are alike; below 0:
        of none. Whoever else has its open file may change it meanwhile, so such a one is of none. OSError."""
        content = read_iterator(task)
        found = ffi.new("int[]", len(fds))
        lib.mg_sort_sockets(content, len(content) // self.size, self.size, self._alone, fds, len(fds), found)
        return found


def open_socket_records() -> AbstractContextManager[SocketRecords]:
    """For the time of a with block. KernelLacks: nobody tells here."""
    return opened("records of sockets", SocketRecords)
