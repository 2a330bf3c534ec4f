"""What the parts of the UNIX sockets share: states, names and how a name is bound, credentials in messages.

Pure. Knows nothing of live sockets.
"""

import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from core.images.pb.sockets_pb2 import SkUcredEntry, UnixSkEntry
from core.plan.ops import Program, Syscall

AT_FDCWD: Final = -100
# TCP_ESTABLISHED, TCP_CLOSE, TCP_LISTEN: image and kernel use the states of TCP.
ESTABLISHED, UNCONNECTED, LISTEN = 1, 7, 10
EXTERN: Final = 1  # uflags of an entry that stands for a socket outside
NAME_LIMIT: Final = 108
PERMISSIONS: Final = 0o7777
KEEP: Final = 0xFFFFFFFF  # setresuid(2): as it is


@dataclass(frozen=True, slots=True)
class Route:
    """How a packet gets into a socket: sent by `fd`, to `to` where that is not its peer already.

    `name`: bind a socket of its own to send it from.
    """

    fd: int | None
    to: bytes = b""
    name: bytes = b""


def is_path(name: bytes) -> bool:
    """False for a socket without a name, and for an abstract one, which begins with NUL."""
    return bool(name) and name[0] != 0


def plain(name: bytes) -> bytes:
    """A name without the NUL that ends a path in some images."""
    return name.rstrip(b"\0") if is_path(name) else name


def shown(name: bytes) -> str:
    """A name as people write it."""
    return repr(name.replace(b"\0", b"@", 1).decode("utf-8", "backslashreplace")) if name else "without a name"


def address(name: bytes) -> bytes:
    """struct sockaddr_un. Source: unix(7)."""
    bare = plain(name)
    end = b"\0" if is_path(bare) and len(bare) < NAME_LIMIT else b""
    return struct.pack("<H", socket.AF_UNIX) + bare + end


def bind_ops(fd: int, sock: UnixSkEntry, why: str) -> Program:
    """Bind to the name; of a path, with mode and owner. A stale socket there goes first."""
    if not sock.name:
        return ()
    why = f"{why}: {shown(sock.name)}"
    bind = Syscall("bind", (fd, address(sock.name), len(address(sock.name))), why)
    if not is_path(sock.name):
        return (bind,)
    path = plain(sock.name) + b"\0"
    ops = [bind]
    if not sock.deleted:
        ops.insert(0, Syscall("unlinkat", (AT_FDCWD, path, 0), f"{why}: remove the old one", may_fail=True))
    if sock.HasField("file_perms"):
        perms = sock.file_perms
        ops.append(Syscall("fchownat", (AT_FDCWD, path, perms.uid, perms.gid, 0), f"{why}: owner"))
        ops.append(Syscall("fchmodat", (AT_FDCWD, path, perms.mode & PERMISSIONS), f"{why}: mode"))
    return tuple(ops)


def unlink_ops(sock: UnixSkEntry, why: str) -> Program:
    """A path that was removed after bind(2)."""
    if not is_path(sock.name) or not sock.deleted:
        return ()
    return (Syscall("unlinkat", (AT_FDCWD, plain(sock.name) + b"\0", 0), f"{why}: was removed"),)


def connect_op(fd: int, name: bytes, why: str) -> Syscall:
    """Connect to a name."""
    return Syscall("connect", (fd, address(name), len(address(name))), f"{why}: connect to {shown(name)}")


def as_owner(program: Iterable[Syscall], cred: SkUcredEntry, why: str) -> Program:
    """Run `program` with the effective ids that SO_PEERCRED shall tell of whoever ran it, then be root again."""
    ops = tuple(program)
    if not ops or not (cred.uid or cred.gid):
        return ops
    return (
        Syscall("setresgid", (KEEP, cred.gid, KEEP), f"{why}: as group {cred.gid}"),
        Syscall("setresuid", (KEEP, cred.uid, KEEP), f"{why}: as user {cred.uid}"),
        *ops,
        Syscall("setresuid", (KEEP, 0, KEEP), f"{why}: as root again"),
        Syscall("setresgid", (KEEP, 0, KEEP), f"{why}: as root again"),
    )
