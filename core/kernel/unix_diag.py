"""What only sock_diag(7) tells of a UNIX socket: its peer, who waits for accept(2), how it is shut down.

Asks in the network namespace of the socket itself, whichever we are in.
"""

import errno
import os
import socket
import struct
from collections.abc import Container, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, TypeAlias

from core.kernel.calls import syscall

NETLINK_SOCK_DIAG: Final = 4
SOCK_DIAG_BY_FAMILY: Final = 20
NLM_F_REQUEST: Final = 1
NLM_F_DUMP: Final = 0x300
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
DUMP_ROOM: Final = 1 << 18
CLONE_NEWNET: Final = 0x40000000
SIOCGSKNS: Final = 0x894C
NO_COOKIE: Final = 0xFFFFFFFF
# Source: linux/unix_diag.h. A reply always has the shutdown.
SHOW_PEER, SHOW_ICONS, SHOW_RQLEN = 0x4, 0x8, 0x10
PEER, ICONS, RQLEN, SHUTDOWN = 2, 3, 4, 6

_HEADER: Final = struct.Struct("<IHHII")  # struct nlmsghdr
_LENGTH_AND_KIND: Final = struct.Struct("<IH")  # its beginning
_REQUEST: Final = struct.Struct("<BBHIIIII")  # struct unix_diag_req
_REPLY: Final = struct.Struct("<BBBBIII")  # struct unix_diag_msg
_ATTRIBUTE: Final = struct.Struct("<HH")  # struct nlattr


@dataclass(frozen=True, slots=True)
class UnixState:
    """One UNIX socket. `state` as of TCP. `peer`: inode, 0 when it is gone or waits for accept(2), None without a peer.

    Of a listening one `waiting` are the inodes of the clients in its queue, in order (0: gone), `limit` its backlog.
    """

    type: int
    state: int
    peer: int | None = None
    waiting: tuple[int, ...] = ()
    limit: int | None = None
    shutdown: int = 0


Replies: TypeAlias = dict[bytes, tuple[int, UnixState] | None]
"""By what the kernel answered: the inode of a socket, and its state."""


def read_states(sockets: Iterable[tuple[int, int]]) -> dict[int, UnixState]:
    """What the kernel tells of each socket (our descriptor of it, its inode), by inode; silent ones are left out."""
    found: dict[int, UnixState] = {}
    add_states(sockets, found)
    return found


def add_states(
    sockets: Iterable[tuple[int, int]],
    found: dict[int, UnixState],
    many: Container[int] = (),
    replies: Replies | None = None,
) -> None:
    """read_states() to `found`, in which `sockets` may look for what need not be asked for any more. `many`: inodes
    that are looked for among all of a network namespace at once. `replies`: what was read of replies before."""
    with ExitStack() as stack:
        channels: dict[int, socket.socket] = {}
        for fd, inode in sockets:
            known = len(channels)
            try:
                channel = _channel(fd, channels, stack)
                if many and len(channels) > known:
                    found.update(_dump(channel, many, {} if replies is None else replies))
                state = found.get(inode) or parse_state(_ask(channel, inode))
            except OSError:  # what it has not told yet is no answer to the next question
                channels.clear()
                many = ()
                continue
            if state is not None:
                found[inode] = state


def _dump(channel: socket.socket, wanted: Container[int], replies: Replies) -> Iterator[tuple[int, UnixState]]:
    """Those of `wanted` in the channel's network namespace, by inode; others that go meanwhile may hide some."""
    channel.sendto(_request(0, NLM_F_REQUEST | NLM_F_DUMP), (0, 0))
    while True:
        reply = channel.recv(DUMP_ROOM)
        position = 0
        while position + _HEADER.size <= len(reply):
            length, kind = _LENGTH_AND_KIND.unpack_from(reply, position)
            if kind in (NLMSG_DONE, NLMSG_ERROR) or length < _HEADER.size + _REPLY.size:
                return
            body = reply[position + _HEADER.size : position + length]
            known = replies.get(body)
            if known is None and (inode := int(_REPLY.unpack_from(body)[4])) in wanted:
                state = parse_state(reply[position : position + length])
                known = replies[body] = (inode, state) if state is not None else None
            if known is not None and known[0] in wanted:
                yield known
            position += length + 3 & ~3


def read_backlog(fd: int, inode: int) -> int | None:
    """The backlog that listen(2) was given, for our descriptor of a UNIX socket; None when the kernel does not tell."""
    state = read_states([(fd, inode)]).get(inode)
    return None if state is None else state.limit


def parse_state(reply: bytes) -> UnixState | None:
    """The first socket of a reply; None for an error. Source: linux/unix_diag.h."""
    length, kind, _, _, _ = _HEADER.unpack_from(reply)
    if kind == NLMSG_ERROR or length < _HEADER.size + _REPLY.size:
        return None
    _, type_, state, _, _, _, _ = _REPLY.unpack_from(reply, _HEADER.size)
    found = dict(_attributes(reply[: min(length, len(reply))]))
    return UnixState(
        type=type_,
        state=state,
        peer=_word(found.get(PEER)),
        waiting=tuple(word for (word,) in struct.iter_unpack("<I", _whole_words(found.get(ICONS, b"")))),
        limit=_word(found.get(RQLEN, b"")[4:8]),
        shutdown=(found.get(SHUTDOWN) or b"\0")[0],
    )


def _attributes(reply: bytes) -> Iterator[tuple[int, bytes]]:
    position = _HEADER.size + _REPLY.size
    while position + _ATTRIBUTE.size <= len(reply):
        size, attribute = _ATTRIBUTE.unpack_from(reply, position)
        if size < _ATTRIBUTE.size:
            return
        yield attribute, reply[position + _ATTRIBUTE.size : position + size]
        position += (size + 3) & ~3


def _word(content: bytes | None) -> int | None:
    return None if content is None or len(content) < 4 else int(struct.unpack_from("<I", content)[0])


def _whole_words(content: bytes) -> bytes:
    return content[: len(content) & ~3]


def _ask(channel: socket.socket, inode: int) -> bytes:
    channel.sendto(_request(inode, NLM_F_REQUEST), (0, 0))
    return channel.recv(65536)


def _request(inode: int, flags: int) -> bytes:
    head = _HEADER.pack(_HEADER.size + _REQUEST.size, SOCK_DIAG_BY_FAMILY, flags, 1, 0)
    show = SHOW_PEER | SHOW_ICONS | SHOW_RQLEN
    return head + _REQUEST.pack(socket.AF_UNIX, 0, 0, 0xFFFFFFFF, inode & 0xFFFFFFFF, show, NO_COOKIE, NO_COOKIE)


def _channel(fd: int, channels: dict[int, socket.socket], stack: ExitStack) -> socket.socket:
    """The netlink socket in the network namespace of socket `fd`, made once for each."""
    theirs = _namespace_of(fd)
    try:
        inode = os.fstat(theirs).st_ino
        if inode not in channels:
            channels[inode] = stack.enter_context(_netlink_in(theirs))
            channels[inode].settimeout(1.0)
        return channels[inode]
    finally:
        os.close(theirs)


def _namespace_of(fd: int) -> int:
    try:
        return syscall("ioctl", fd, SIOCGSKNS)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _netlink_in(theirs: int) -> socket.socket:
    """This thread is elsewhere for a moment only when it has to."""
    ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(theirs).st_ino == os.fstat(ours).st_ino:
            return _netlink()
        syscall("setns", theirs, CLONE_NEWNET)
        try:
            return _netlink()
        finally:
            syscall("setns", ours, CLONE_NEWNET)
    finally:
        os.close(ours)


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
