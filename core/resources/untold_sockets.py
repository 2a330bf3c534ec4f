"""Refuses sockets with what nobody can read: programs of SO_REUSEPORT groups, keys of TCP sockets.

Asked before the freeze alone: learning where the kernel keeps them takes a tenth of a second, in which none is held:
what a running process closes then would have no end for its peer. Where the kernel does not let its memory be read (no
BPF, no BTF) nobody is refused.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from core.errors import Blocker, KernelLacks
from core.kernel.calls import pidfd_getfd
from core.kernel.socket_secrets import Asker, asking_for_keys, asking_for_programs
from core.plan.memberships import has_attached
from core.plan.socket_options import borrowed_socket
from core.proc.reader import ProcReader

FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
PROTOCOLS: Final = (socket.IPPROTO_TCP, socket.IPPROTO_UDP)
CLOSED: Final = (errno.EBADF, errno.ESRCH, errno.ENOTSOCK)  # meanwhile; or something else has its number now


@dataclass(frozen=True, slots=True)
class _Kind:
    """Something untold: which sockets may have it, and how the kernel's memory is asked for it (KernelLacks)."""

    code: str
    reason: str
    hint: str
    is_suspect: Callable[[socket.socket], bool]
    asking: Callable[[], AbstractContextManager[Asker]]


def refuse(pid: int, pidfd: int, reader: ProcReader) -> list[Blocker]:
    """Every such socket of a process that runs."""
    sockets = [fd for fd in reader.fds(pid) if _is_socket(pid, fd, reader)]
    found: list[Blocker] = []
    for kind in KINDS:
        suspects = [fd for fd in sockets if _look(pidfd, fd, kind)]
        with suppress(KernelLacks):
            found += _refuse(pidfd, suspects, kind) if suspects else ()
    return found


def _refuse(pidfd: int, suspects: list[int], kind: _Kind) -> list[Blocker]:
    with kind.asking() as has:
        with_it = [fd for fd in suspects if _look(pidfd, fd, kind, has)]
    return [Blocker(f"fd-{kind.code}", f"fd {fd}", kind.reason, kind.hint) for fd in with_it]


def _is_socket(pid: int, fd: int, reader: ProcReader) -> bool:
    with suppress(FileNotFoundError):  # closed meanwhile
        return reader.fd_link(pid, fd).startswith("socket:")
    return False


def _look(pidfd: int, fd: int, kind: _Kind, has: Asker | None = None) -> bool:
    """Whether it may have such a thing, and has it where somebody can be asked."""
    try:
        with _duplicate(pidfd, fd) as ours, borrowed_socket(ours) as live:
            is_inet = live.family in FAMILIES and live.proto in PROTOCOLS
            return is_inet and kind.is_suspect(live) and (has is None or has(ours))
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        return False


@contextmanager
def _duplicate(pidfd: int, fd: int) -> Iterator[int]:
    ours = pidfd_getfd(pidfd, fd)
    try:
        yield ours
    finally:
        os.close(ours)


def _may_be_grouped(live: socket.socket) -> bool:
    """TCP connections have the option of the socket that accepted them, and no group."""
    is_connection = live.proto == socket.IPPROTO_TCP and _is_connected(live)
    return bool(live.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)) and not is_connection


def _may_be_keyed(live: socket.socket) -> bool:
    """Connections are given up."""
    return live.proto == socket.IPPROTO_TCP and has_attached(live) and not _is_connected(live)


def _is_connected(live: socket.socket) -> bool:
    try:
        live.getpeername()
    except OSError:
        return False
    return True


KINDS: Final = (
    _Kind(
        "reuseport",
        "a program chooses among the sockets of its group (SO_ATTACH_REUSEPORT_…BPF), and nobody can read it",
        "start it without (nginx: quic_bpf off)",
        _may_be_grouped,
        asking_for_programs,
    ),
    _Kind(
        "tcp-keys",
        "TCP socket with keys (TCP_MD5SIG, TCP_AO), which nobody can read",
        "start another one on the other host",
        _may_be_keyed,
        asking_for_keys,
    ),
)
