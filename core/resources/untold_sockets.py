"""Refuses sockets with what nobody can read: programs of SO_REUSEPORT groups, keys of TCP sockets.

Asked before the freeze alone: learning where the kernel keeps them takes a tenth of a second. Where it does not let its
memory be read (no BPF, no BTF) nobody is refused.
"""

import os
import socket
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Final

from core.errors import Blocker, KernelLacks
from core.kernel.calls import pidfd_getfd
from core.kernel.socket_secrets import with_group_program, with_keys
from core.plan.memberships import has_attached
from core.plan.socket_options import borrowed_socket
from core.proc.reader import ProcReader

FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
PROTOCOLS: Final = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)


@dataclass(frozen=True, slots=True)
class _Suspects:
    """Our duplicates of what may have such a thing, with its number in the process."""

    grouped: dict[int, int] = field(default_factory=dict)
    keyed: dict[int, int] = field(default_factory=dict)


def refuse(pid: int, pidfd: int, reader: ProcReader) -> list[Blocker]:
    """Every such socket of a process that runs."""
    with ExitStack() as stack:
        suspects = _find(stack, pid, pidfd, reader)
        programs: set[int] = set()
        with suppress(KernelLacks):
            programs = with_group_program(suspects.grouped) if suspects.grouped else programs
        keys = with_keys(suspects.keyed) if suspects.keyed else set()
    found = []
    for ours in programs:
        reason = "a program chooses among the sockets of its group (SO_ATTACH_REUSEPORT_…BPF), and nobody can read it"
        found.append(_blocker("reuseport", suspects.grouped[ours], reason, "start it without (nginx: quic_bpf off)"))
    for ours in keys:
        reason = "TCP socket with keys (TCP_MD5SIG, TCP_AO), which nobody can read"
        found.append(_blocker("tcp-keys", suspects.keyed[ours], reason, "start another one on the other host"))
    return found


def _blocker(code: str, fd: int, reason: str, hint: str) -> Blocker:
    return Blocker(f"fd-{code}", f"fd {fd}", reason, hint)


def _find(stack: ExitStack, pid: int, pidfd: int, reader: ProcReader) -> _Suspects:
    found = _Suspects()
    for fd in reader.fds(pid):
        try:
            if not reader.fd_link(pid, fd).startswith("socket:"):
                continue
            ours = pidfd_getfd(pidfd, fd)
        except OSError:  # closed meanwhile
            continue
        with borrowed_socket(ours) as live:
            is_inet = live.family in FAMILIES and live.proto in PROTOCOLS
            if is_inet and live.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
                found.grouped[ours] = fd
            if is_inet and live.proto == socket.IPPROTO_TCP and has_attached(live) and not _is_connected(live):
                found.keyed[ours] = fd
        if ours in found.grouped or ours in found.keyed:
            stack.callback(os.close, ours)
        else:
            os.close(ours)
    return found


def _is_connected(live: socket.socket) -> bool:
    """Connections are given up."""
    try:
        live.getpeername()
    except OSError:
        return False
    return True
