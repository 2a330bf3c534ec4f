"""UNIX sockets as open files: which can be carried, and their images. A path is bound anew with its mode and owner.

Peers are known by inode, within everything that is carried together. Making them is unix_connected, queues are
unix_queue. Must not unlink a path that leads to anything but a socket: `verify` is asked before, on the destination.
"""

import fcntl
import os
import select
import socket
import stat
import struct
import termios
from typing import Final

from core.errors import Blocker
from core.images.pb.descriptors_pb2 import FownEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.sockets_pb2 import FilePermsEntry, SkOptsEntry, SkShutdown, SkUcredEntry, UnixSkEntry
from core.kernel.descriptors import Asked, Sight
from core.kernel.pipe_content import polls
from core.kernel.unix_diag import UnixState
from core.plan.ops import FdAllocator, Program, Syscall
from core.plan.socket_options import LOOKED_AT, borrowed_socket, has_filter, read_options
from core.plan.unix_names import ESTABLISHED, EXTERN, LISTEN, UNCONNECTED, is_path, plain, shown
from core.resources.context import OpenFile, OpenTable, live_socket, looking_at, read_owner

SO_PEEK_OFF: Final = 42
SHUTDOWNS: Final = (SkShutdown.NONE, SkShutdown.READ, SkShutdown.WRITE, SkShutdown.BOTH)  # by sk_shutdown
NOBODY: Final = 0xFFFFFFFF
JOURNAL: Final = b"/run/systemd/journal/"
JOURNAL_STREAM: Final = b"/run/systemd/journal/stdout"
SYSLOG: Final = (b"/dev/log", b"/run/systemd/journal/dev-log", b"/run/rsyslog/dev/log")
EXTERNAL_IDS: Final = 0x80000000  # ids of sockets outside lie above those of files


def claims(file: OpenFile) -> bool:
    """By family."""
    return file.is_unix_socket


def is_told(sight: Sight) -> bool:
    """The record tells all of a stream without anything to be read, which does not listen and has no path. Of its peer
    the table has to tell (is_plain)."""
    head = sight.head
    streams = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    if head.domain != socket.AF_UNIX or head.type not in streams or head.filter or head.urgent:
        return False
    asked = sight.asked(LOOKED_AT)
    quiet = not head.events & (select.POLLIN | select.POLLPRI | select.POLLRDHUP | select.POLLERR | select.POLLHUP)
    return quiet and not is_listening(asked) and not is_path(read_name(asked))


def is_plain(file: OpenFile, table: OpenTable) -> bool:
    """Its record tells all, and its peer is carried with it."""
    state = table.unix.get(file.stat.st_ino) if file.sight is not None else None
    return state is not None and bool(state.peer) and state.peer in table.unix and not state.waiting


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Peers outside, paths that cannot be bound anew, and what cannot be looked at."""
    if is_plain(file, table):
        return None
    with borrowed_socket(file.local_fd) as live:
        name = read_name(live)
        if has_filter(live):
            return file.blocker("socket-filter", "UNIX socket with a BPF filter")
        if live.type == socket.SOCK_STREAM and _has_urgent(live):
            reason = f"an urgent byte (MSG_OOB) waits, or may wait (SO_OOBINLINE), in UNIX socket {shown(name)}"
            return file.blocker("unix-urgent", reason, "try again when the program has read it")
        if is_connected(live):
            refused = _refuse_peer(file, live, table)
            if refused is not None:
                return refused
        elif is_listening(live) and is_readable(live):
            refused = _refuse_waiting(file, name, table)
            if refused is not None:
                return refused
        return _refuse_path(file, name) if is_path(name) else None


def _refuse_peer(file: OpenFile, live: socket.socket, table: OpenTable) -> Blocker | None:
    state = table.unix.get(file.stat.st_ino)
    if state is None:
        return file.blocker(
            "unix-peer", "the kernel does not tell the peer of this UNIX socket (unix_diag)", "load unix_diag"
        )
    if state.peer and state.peer not in table.unix:
        return _refuse_outside(file, live, state, table)
    if state.peer == 0 and live.type != socket.SOCK_DGRAM and state.shutdown == 0:
        listener = _listener_of(file, table)
        peer = shown(read_peer_name(live))
        if listener is None:
            return file.blocker(
                "unix-outside",
                f"waits for accept by {peer}, which is not migrated with it",
                "try again once it is accepted",
            )
        if _unread_by_peer(live):
            return file.blocker("unix-waiting", f"has written to {peer}, which did not accept the connection yet")
    return None


def _refuse_outside(file: OpenFile, live: socket.socket, state: UnixState, table: OpenTable) -> Blocker | None:
    peer = read_peer_name(live)
    if _is_reconnected(live.type, peer, table) and not _has_unread(live):
        return None
    if table.unseen and state.peer not in table.holders:
        return None  # it may be in flight
    holder = table.holders.get(state.peer or 0, "another process")
    reason = f"its peer {shown(peer)} belongs to {holder}, which is not migrated with it"
    hint = "--ext-unix-sk: connect to the same path over there" if live.type == socket.SOCK_DGRAM and peer else None
    return file.blocker("unix-outside", f"connected UNIX socket: {reason}", hint or "migrate both, or close it")


def _is_reconnected(kind: int, peer: bytes, table: OpenTable) -> bool:
    """Loggers everywhere; other services by datagram when the user says so."""
    if kind == socket.SOCK_DGRAM:
        return peer in SYSLOG or peer.startswith(JOURNAL) or (table.options.files.ext_unix_sk and is_path(peer))
    return kind == socket.SOCK_STREAM and peer == JOURNAL_STREAM


def _listener_of(file: OpenFile, table: OpenTable) -> int | None:
    """Inode of the listening socket, carried with it, that has not accepted it yet."""
    return next((inode for inode, state in table.unix.items() if file.stat.st_ino in state.waiting), None)


def _refuse_waiting(file: OpenFile, name: bytes, table: OpenTable) -> Blocker | None:
    """Connections by sockets that are carried too come along."""
    state = table.unix.get(file.stat.st_ino)
    if table.options.tcp != "refuse" or (state is not None and all(inode in table.unix for inode in state.waiting)):
        return None
    hint = "try again, or --tcp close: their clients find them closed"
    return file.blocker("unix-waiting", f"connections to UNIX socket {shown(name)} wait for accept", hint)


def _refuse_path(file: OpenFile, name: bytes) -> Blocker | None:
    if not name.startswith(b"/"):
        reason = f"UNIX socket bound to the relative path {shown(name)}"
        return file.blocker("unix-path", reason, "bind it to an absolute path")
    return None


def read_name(live: socket.socket | Asked) -> bytes:
    """What it is bound to: a path without its NUL, an abstract name with its leading NUL, or nothing."""
    return _as_bytes(live.getsockname())


def read_peer_name(live: socket.socket | Asked) -> bytes:
    """The same of its peer, also when that is gone; empty without one."""
    try:
        return _as_bytes(live.getpeername())
    except OSError:
        return b""


def _as_bytes(name: object) -> bytes:
    if isinstance(name, str):
        return os.fsencode(name)
    return name if isinstance(name, bytes) else b""


def is_connected(live: socket.socket) -> bool:
    """True for one with a peer, also when that is gone, which a stream socket outlives."""
    try:
        live.getpeername()
    except OSError:
        return live.type != socket.SOCK_DGRAM and polls(live.fileno(), select.POLLRDHUP)
    return True


def is_listening(live: socket.socket | Asked) -> bool:
    """True after listen(2)."""
    return bool(live.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def is_readable(live: socket.socket) -> bool:
    """True when something, or a connection to accept, waits."""
    return polls(live.fileno(), select.POLLIN)


def _has_urgent(live: socket.socket) -> bool:
    """Within the others' order nobody can ask for it."""
    if live.getsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE):
        return _count(live, termios.FIONREAD) > 0
    try:
        return bool(live.recv(1, socket.MSG_OOB | socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False


def _has_unread(live: socket.socket) -> bool:
    """One that is shut down is readable too, without anything to read."""
    return _count(live, termios.FIONREAD) > 0 or (is_readable(live) and not polls(live.fileno(), select.POLLRDHUP))


def _unread_by_peer(live: socket.socket) -> bool:
    return _count(live, termios.TIOCOUTQ) > 0


def _count(live: socket.socket, request: int) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(live.fileno(), request, bytes(4)))
    return int(count)


def has_queue(file: OpenFile) -> bool:
    """True for a socket in which bytes or packets can wait."""
    if file.sight is not None:
        return False
    with borrowed_socket(file.local_fd) as live:
        return not is_listening(live) and (is_readable(live) or live.type == socket.SOCK_DGRAM)


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Name, type, options, peer; for a listening one its backlog, for a path its mode and owner."""
    known = table.unix.get(file.stat.st_ino)
    with live_socket(file) if is_plain(file, table) else borrowed_socket(file.local_fd) as live:
        listening = is_listening(live)
        entry = UnixSkEntry(
            id=id, ino=file.stat.st_ino & 0xFFFFFFFF, type=live.type, state=LISTEN if listening else UNCONNECTED,
            flags=file.flags, uflags=0, backlog=_backlog(known) if listening else 0, peer=0,
            fown=read_owner(file), opts=read_options(live), name=read_name(live), mnt_id=-1,
        )  # fmt: skip
        if known is not None:
            _collect_connection(file, live, known, entry, table)
        _collect_credentials(live, entry)
        if (offset := live.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)) >= 0:
            entry.peek_off = offset
    if is_path(entry.name):
        _collect_path(file, entry)
    return FileEntry(type=FdTypes.UNIXSK, id=id, usk=entry)


def _collect_connection(
    file: OpenFile, live: socket.socket | Asked, known: UnixState, entry: UnixSkEntry, table: OpenTable
) -> None:
    entry.state = known.state
    entry.waiting.extend(inode for inode in known.waiting if inode in table.unix)
    if known.shutdown:
        entry.shutdown = SHUTDOWNS[known.shutdown & 3]
    if known.peer is None:
        if known.state == ESTABLISHED:
            entry.state = UNCONNECTED  # somebody connected to this datagram socket: it has no peer itself
        return
    entry.state = ESTABLISHED
    entry.peer = known.peer & 0xFFFFFFFF
    if known.peer == 0:
        entry.peer = _listener_of(file, table) or 0
        entry.peer_name = read_peer_name(live)
        with borrowed_socket(file.local_fd) as ours:
            entry.reset = live.type != socket.SOCK_DGRAM and polls(ours.fileno(), select.POLLERR)
    elif known.peer not in table.unix:
        entry.greeting = _greeting(file, read_peer_name(live))


def collect_outside(file: OpenFile, table: OpenTable) -> FileEntry | None:
    """The entry that stands for a service outside which is connected to again; None for other sockets."""
    known = table.unix.get(file.stat.st_ino)
    if known is None or not known.peer or known.peer in table.unix:
        return None
    with borrowed_socket(file.local_fd) as live:
        entry = UnixSkEntry(
            id=EXTERNAL_IDS | (known.peer & 0x7FFFFFFF), ino=known.peer & 0xFFFFFFFF, type=live.type, state=UNCONNECTED,
            flags=os.O_RDWR, uflags=EXTERN, backlog=0, peer=0, name=read_peer_name(live), mnt_id=-1,
        )  # fmt: skip
    entry.fown.CopyFrom(FownEntry(uid=0, euid=0, signum=0, pid_type=0, pid=0))
    entry.opts.CopyFrom(SkOptsEntry(
        so_sndbuf=0, so_rcvbuf=0, so_snd_tmo_sec=0, so_snd_tmo_usec=0, so_rcv_tmo_sec=0, so_rcv_tmo_usec=0,
    ))  # fmt: skip
    return FileEntry(type=FdTypes.UNIXSK, id=entry.id, usk=entry)


def _greeting(file: OpenFile, peer: bytes) -> bytes:
    """The journal wants to know who writes: identifier, unit, priority, four flags. Source: sd_journal_stream_fd(3)."""
    if peer != JOURNAL_STREAM:
        return b""
    with open(f"/proc/{file.pid}/comm", "rb") as comm:
        return comm.read().rstrip(b"\n") + b"\n\n6\n1\n0\n0\n0\n"


def _collect_credentials(live: socket.socket | Asked, entry: UnixSkEntry) -> None:
    """What SO_PEERCRED tells; the PID cannot be had again unless it is the task's own."""
    pid, uid, gid = struct.unpack("iII", live.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if pid and uid != NOBODY:
        entry.peer_cred.CopyFrom(SkUcredEntry(pid=pid, uid=uid, gid=gid))


def losses(table: OpenTable) -> list[str]:
    """Clients that wait for accept(2), and services that are connected to anew."""
    lost = []
    for file in filter(claims, table.files):
        with looking_at(file), borrowed_socket(file.local_fd) as live:
            state = table.unix.get(file.stat.st_ino)
            ours = state is not None and all(inode in table.unix for inode in state.waiting)
            if is_listening(live) and is_readable(live) and not ours:
                name = shown(read_name(live))
                lost.append(f"connections waiting for accept are lost: fd {file.fd}, UNIX socket {name}")
            if state is None or not state.peer or state.peer in table.unix:
                continue
            if peer := read_peer_name(live):  # who has none is refused
                lost.append(f"fd {file.fd}: connects to {shown(peer)} of the new host")
    return lost


def _backlog(known: UnixState | None) -> int:
    return socket.SOMAXCONN if known is None or known.limit is None else known.limit


def _collect_path(file: OpenFile, entry: UnixSkEntry) -> None:
    """Mode and owner of what the path leads to; `deleted` when somebody removed it."""
    try:
        found = os.lstat(f"/proc/{file.pid}/root".encode() + entry.name)
    except FileNotFoundError:
        found = None
    if found is None or not stat.S_ISSOCK(found.st_mode):
        entry.deleted = True
        return
    entry.file_perms.CopyFrom(
        FilePermsEntry(mode=stat.S_IMODE(found.st_mode) | stat.S_IFSOCK, uid=found.st_uid, gid=found.st_gid)
    )


def verify(entry: UnixSkEntry, subject: str, root: str = "/") -> Blocker | None:
    """Why the name cannot be had below `root`.

    Its directory is absent, something other than a socket is there, or nothing where a service shall listen.
    """
    if not is_path(entry.name):
        return None
    path = os.fsencode(root.rstrip("/")) + plain(entry.name)
    where = shown(entry.name)
    outside = bool(entry.uflags & EXTERN)
    try:
        found = os.stat(path) if outside else os.lstat(path)
    except FileNotFoundError:
        if outside:
            return Blocker("unix-outside", subject, f"{where}: nothing to connect to here", "start that service")
        if os.path.isdir(os.path.dirname(path)):
            return None
        return Blocker("unix-path", subject, f"{where}: its directory does not exist", "make the directory")
    except OSError as error:
        return Blocker("unix-path", subject, f"{where}: {error.strerror}", "let root look it up there")
    if entry.deleted or not stat.S_ISSOCK(found.st_mode):
        return Blocker("unix-path", subject, f"{where}: something else is there", "move it away")
    return None


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """A bare socket."""
    fd = fds.take()
    return (Syscall("socket", (socket.AF_UNIX, entry.usk.type, 0), why),), fd
