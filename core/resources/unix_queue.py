"""What waits to be read in UNIX sockets: bytes with their message boundaries, descriptors in flight, credentials.

Looked at with MSG_PEEK through our duplicate, so nothing is taken out; SO_PEEK_OFF is put back as it was. Only for
frozen tasks: a running one would peek from our offset. Sent again from the other end when all files stand.
"""

import errno
import fcntl
import mmap
import os
import select
import socket
import struct
import termios
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from core.errors import CollectError, ImageError
from core.images.codec import Record
from core.images.pb.sockets_pb2 import ScmEntry, SkPacketEntry, SkUcredEntry, UnixSkEntry
from core.kernel.calls import address_of, syscall
from core.plan.ops import FdAllocator, Pointers, Program, Syscall
from core.plan.socket_options import SO_SNDBUFFORCE, borrowed_socket, set_option
from core.plan.unix_names import Route, address, bind_ops, unlink_ops
from core.proc.reader import ProcReader
from core.resources.context import OpenFile

SO_PEEK_OFF: Final = 42
SCM_CREDENTIALS, SCM_PIDFD = 2, 4
SCM_MAX_FD: Final = 253
ANCILLARY: Final = socket.CMSG_SPACE(4 * SCM_MAX_FD) + 4 * socket.CMSG_SPACE(32)
PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0x40000000)
PACKET_LIMIT: Final = 16 << 20  # no packet is larger: it has to be in memory of the kernel
PIECE: Final = 32768  # of a stream: goes into the queue whole or not at all
OVERHEAD: Final = 4096  # of the kernel, for one packet
ROOM: Final = 65536  # what every socket may send at once, even the smallest default
PAGE: Final = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Packet:
    """One piece of a queue. `fds` are our duplicates of what is in flight with it; the caller closes them."""

    payload: bytes
    fds: tuple[int, ...] = ()
    credentials: tuple[int, int, int] | None = None  # pid, uid, gid
    sender: bytes = b""


def collect_queue(file: OpenFile) -> list[Packet]:
    """Everything that waits in a connected or datagram socket, in order; CollectError when it is not to be had."""
    packets: list[Packet] = []
    try:
        with borrowed_socket(file.local_fd) as live:
            packets += _peek_stream(live) if live.type == socket.SOCK_STREAM else _peek_packets(live)
    except OSError as error:
        close_all(packets)
        raise CollectError(file.subject, f"cannot read its queue: {error.strerror}") from error
    return packets


def close_all(packets: Sequence[Packet]) -> None:
    """Give the descriptors back."""
    for packet in packets:
        for fd in packet.fds:
            os.close(fd)


def waiting_bytes(fd: int) -> int:
    """How many bytes wait; of datagrams those of the first."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    return int(count)


def _peek_stream(live: socket.socket) -> Iterator[Packet]:
    """A peek ends behind the piece that carries descriptors; those belong to its first byte, which has to be found."""
    with _peeking_from_start(live):
        left = waiting_bytes(live.fileno())
        while left:
            offset = live.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
            packet = _peek(live, left)
            if packet is None or not packet.payload:
                raise OSError(errno.EAGAIN, f"{left} bytes are not to be seen")
            left -= len(packet.payload)
            if not packet.fds:
                yield packet
                continue
            start = _start_of_last_piece(live, offset, len(packet.payload))
            if start:
                yield Packet(packet.payload[:start], (), packet.credentials)
            yield Packet(packet.payload[start:], packet.fds, packet.credentials)


def _start_of_last_piece(live: socket.socket, offset: int, length: int) -> int:
    """Where the last piece of the `length` bytes at `offset` begins.

    The kernel copies piece by piece and gives up a piece that it cannot copy whole: one byte of room too few, with
    memory that cannot be written behind it, ends the copy exactly at the border.
    """
    room = -(-length // PAGE) * PAGE
    with mmap.mmap(-1, room + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        syscall("mprotect", address_of(area) + room, PAGE, 0)  # type: ignore[arg-type]  # an mmap is a buffer
        view = memoryview(area)[room - length + 1 :]
        after = live.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
        live.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset)
        try:
            return live.recv_into(view, 0, PEEK)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            return 0
        finally:
            view.release()
            live.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, after)


def _peek_packets(live: socket.socket) -> Iterator[Packet]:
    """A shut down SOCK_SEQPACKET reads as empty forever; empty packets at its very end read the same to everybody.

    An empty packet that somebody has peeked at before does not show again where peeking has an offset. The first shows
    without: CollectError for that one; the kernel hides others (it may be us who peeked, in a move that failed).
    """
    left, first = waiting_bytes(live.fileno()), None
    endless = live.type == socket.SOCK_SEQPACKET and _is_shut(live)
    with _peeking_from_start(live):
        while (packet := _peek(live, 0)) is not None:
            left -= len(packet.payload)
            if endless and left <= 0 and not packet.payload and not packet.fds:
                return
            first = first or packet
            yield packet
        live.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, -1)
        head = None if endless else _peek(live, 0)
        close_all([head] if head else [])
        if head is not None and not head.payload and (first is None or first.payload):
            raise OSError(errno.EAGAIN, "an empty packet waits that was peeked at before, and is not to be seen again")


def _is_shut(live: socket.socket) -> bool:
    poller = select.poll()
    poller.register(live.fileno(), select.POLLRDHUP)
    return any(events & select.POLLRDHUP for _, events in poller.poll(0))


@contextmanager
def _peeking_from_start(live: socket.socket) -> Iterator[None]:
    before = live.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
    live.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 0)
    try:
        yield
    finally:
        live.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, before)


def _peek(live: socket.socket, size: int) -> Packet | None:
    """The next piece, of at most `size` bytes; 0: a whole packet. None at the end of the queue."""
    limit = size or 65536
    while True:
        before = live.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)
        try:
            payload, ancillary, flags, sender = live.recvmsg(limit, ANCILLARY, PEEK)
        except BlockingIOError:
            return None
        packet = _packet(payload, ancillary, sender)
        if flags & socket.MSG_CTRUNC:
            close_all([packet])
            raise OSError(errno.EMSGSIZE, "what comes with a packet does not fit")
        if not flags & socket.MSG_TRUNC or size:
            return packet
        close_all([packet])
        limit *= 8
        if limit > PACKET_LIMIT:
            raise OSError(errno.EMSGSIZE, f"a packet of more than {PACKET_LIMIT} bytes")
        live.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, before)


def _packet(payload: bytes, ancillary: list[tuple[int, int, bytes]], sender: object) -> Packet:
    fds: tuple[int, ...] = ()
    credentials = None
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds = struct.unpack(f"{len(content) // 4}i", content[: len(content) & ~3])
        elif (level, kind) == (socket.SOL_SOCKET, SCM_CREDENTIALS):
            credentials = struct.unpack("3i", content[:12])
        elif (level, kind) == (socket.SOL_SOCKET, SCM_PIDFD) and (pid := _pid_of(*struct.unpack("i", content[:4]))):
            credentials = credentials or (pid, 0, 0)  # of user and group nobody is told
    name = sender.encode("utf-8", "surrogateescape") if isinstance(sender, str) else sender
    return Packet(payload, fds, credentials, name if isinstance(name, bytes) else b"")


def _pid_of(pidfd: int) -> int:
    """The process of a pidfd that came with a packet (SO_PASSPIDFD), which is closed; 0: it has ended."""
    if pidfd < 0:
        return 0
    try:
        return max(0, ProcReader().fdinfo(os.getpid(), pidfd).pidfd_pid or 0)
    finally:
        os.close(pidfd)


def packet_entry(packet: Packet, socket_id: int, rights: Sequence[int]) -> SkPacketEntry:
    """The image of a packet in the socket `socket_id`; `rights` are the ids of what is in flight with it."""
    entry = SkPacketEntry(id_for=socket_id, length=len(packet.payload))
    if rights:
        entry.scm.append(ScmEntry(type=socket.SCM_RIGHTS, rights=rights))
    if packet.credentials is not None:
        pid, uid, gid = packet.credentials
        entry.ucred.CopyFrom(SkUcredEntry(pid=pid, uid=uid & 0xFFFFFFFF, gid=gid & 0xFFFFFFFF))
    if packet.sender:
        entry.sender = packet.sender
    return entry


@dataclass(frozen=True, slots=True)
class Sending:
    """What sending needs to know: by file id, sockets that receive, numbers, and by packet the way it takes."""

    sockets: Mapping[int, UnixSkEntry]
    numbers: Mapping[int, int]
    route: Callable[[SkPacketEntry], Route]
    pids: Collection[int] = ()  # of the tree, as it calls itself


def plan_send(
    packets: Sequence[Record[SkPacketEntry]], sending: Sending, fds: FdAllocator, why: Callable[[int], str]
) -> tuple[Program, dict[int, int]]:
    """Ops that fill the queues, and by descriptor the send buffer that was needed for it."""
    ops: list[Syscall] = []
    routes = [sending.route(record.message) for record in packets]
    rooms = _rooms(packets, routes)
    for fd, room in rooms.items():
        ops.append(set_option(fd, socket.SOL_SOCKET, SO_SNDBUFFORCE, room, "room to fill a queue"))
    for record, route in zip(packets, routes, strict=True):
        reason = f"{why(record.message.id_for)}: packet of {record.message.length} bytes"
        if route.fd is None:
            ops += _send_by_another(record, route, sending, fds, reason)
        else:
            ops += _send_ops(record, route.fd, route.to, sending, reason)
    return tuple(ops), rooms


def _rooms(packets: Sequence[Record[SkPacketEntry]], routes: Sequence[Route]) -> dict[int, int]:
    needed: dict[int, int] = {}
    for record, route in zip(packets, routes, strict=True):
        if route.fd is not None:
            needed[route.fd] = needed.get(route.fd, 0) + 2 * record.message.length + OVERHEAD
    return {fd: room for fd, room in needed.items() if room > ROOM}


def _send_ops(record: Record[SkPacketEntry], fd: int, to: bytes, sending: Sending, why: str) -> Iterator[Syscall]:
    """One sendmsg(2) for a packet; a stream's bytes without descriptors in pieces."""
    control = _control(record.message, sending)
    payload = record.payload
    is_stream = sending.sockets[record.message.id_for].type == socket.SOCK_STREAM
    step = PIECE if is_stream and not control else max(len(payload), 1)
    for start in range(0, max(len(payload), 1), step):
        yield _sendmsg(fd, payload[start : start + step], to, control, why)


def _send_by_another(
    record: Record[SkPacketEntry], route: Route, sending: Sending, fds: FdAllocator, why: str
) -> Iterator[Syscall]:
    """From a socket made for it: its sender is gone."""
    fd = fds.take()
    yield Syscall("socket", (socket.AF_UNIX, socket.SOCK_DGRAM, 0), f"{why}: in place of its sender")
    stand_in = UnixSkEntry(name=route.name, deleted=True)
    yield from bind_ops(fd, stand_in, why)
    yield set_option(fd, socket.SOL_SOCKET, SO_SNDBUFFORCE, 2 * record.message.length + ROOM, why)
    yield from _send_ops(record, fd, route.to, sending, why)
    yield Syscall("close", (fd,), f"{why}: its sender is gone")
    yield from unlink_ops(stand_in, why)
    fds.release(fd)


def _sendmsg(fd: int, payload: bytes, to: bytes, control: bytes, why: str) -> Syscall:
    """struct msghdr: name, iovec, control. Source: sendmsg(2)."""
    name = address(to) if to else b""
    vector = Pointers((payload, len(payload)))
    message = Pointers((name or 0, len(name), vector, 1, control or 0, len(control), 0))
    return Syscall("sendmsg", (fd, message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL), why)


def _control(packet: SkPacketEntry, sending: Sending) -> bytes:
    """Control messages: descriptors by the numbers they have now; credentials, where the sender is of the tree.

    Those of others stay unknown, as for a message from before SO_PASSCRED.
    """
    parts = []
    for scm in packet.scm:
        if scm.type != socket.SCM_RIGHTS:
            raise ImageError("sk-queues.img", f"control message of type {scm.type} is not carried")
        numbers = [_number(id, sending) for id in scm.rights]
        parts.append(_cmsg(socket.SCM_RIGHTS, struct.pack(f"<{len(numbers)}i", *numbers)))
    cred = packet.ucred
    if packet.HasField("ucred") and cred.pid in sending.pids:
        parts.append(_cmsg(SCM_CREDENTIALS, struct.pack("<iII", cred.pid, cred.uid, cred.gid)))
    return b"".join(parts)


def _cmsg(kind: int, content: bytes) -> bytes:
    padded = content + bytes(-len(content) % 8)
    return struct.pack("<Qii", 16 + len(content), socket.SOL_SOCKET, kind) + padded


def _number(id: int, sending: Sending) -> int:
    number = sending.numbers.get(id)
    if number is None:
        raise ImageError("sk-queues.img", f"file {id} in flight is in no image")
    return number
