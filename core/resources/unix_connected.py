"""Makes the UNIX sockets of a tree: pairs, peers that are gone, names, connections, queues, shutdown, in that order.

Three steps. `plan_made` gives each socket its number, pairs connected; `plan_finish`, when all files stand, binds,
listens, connects; `plan_last`, when the queues are full, shuts down and sets options. A peer that is gone gets a
number like a file in flight and is closed with those. SO_PEERCRED tells the ids it told before, but as PID that of
the task which makes the socket.
"""

import socket
import struct
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Final

from core.errors import ImageError
from core.images.codec import Record
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.sockets_pb2 import SkOptsEntry, SkPacketEntry, SkShutdown, SkUcredEntry, UnixSkEntry
from core.plan.ops import FdAllocator, Out, Program, Syscall
from core.plan.socket_options import SO_BUF_LOCK, SO_SNDBUFFORCE, option_ops, set_option
from core.plan.unix_names import (
    ESTABLISHED,
    EXTERN,
    LISTEN,
    Route,
    address,
    as_owner,
    bind_ops,
    connect_op,
    is_path,
    plain,
    unlink_ops,
)
from core.resources.context import owner_and_flags_ops

SO_PEEK_OFF: Final = 42
Why = Callable[[int], str]


class Sockets:
    """The UNIX sockets of some tables by file id, and who was connected to whom."""

    def __init__(self, entries: Sequence[FileEntry], packets: Sequence[Record[SkPacketEntry]], next_id: int) -> None:
        found = [
            UnixSkEntry.FromString(entry.usk.SerializeToString()) for entry in entries if entry.type == FdTypes.UNIXSK
        ]
        if any(entry.usk.id != entry.id for entry in entries if entry.type == FdTypes.UNIXSK):
            raise ImageError("files.img", "a UNIX socket has two ids")
        self.outside = {sock.ino: sock for sock in found if sock.uflags & EXTERN}
        self.by_id = {sock.id: sock for sock in found if not sock.uflags & EXTERN}
        self.by_ino = {sock.ino: sock for sock in self.by_id.values()}
        if len(self.by_ino) != len(self.by_id):
            raise ImageError("files.img", "two UNIX sockets have one inode")
        self._inos = iter(range(0xFFFFFFFF, 0, -1))
        self.gone: dict[int, FileEntry] = {}
        for sock in list(self.by_id.values()):
            if self._lost_its_peer(sock):
                self._stand_in(sock, next_id + len(self.gone))
        self._packets = [record for record in packets if record.message.id_for in self.by_id]
        self.pairs = self._find_pairs()
        self._groups = self._find_groups()
        self._names = Counter(plain(sock.name) for sock in self.by_id.values() if sock.name)

    def _lost_its_peer(self, sock: UnixSkEntry) -> bool:
        """Its peer is gone. In images of criu's, one with a name that others are connected to looks so, too."""
        if sock.type == socket.SOCK_DGRAM and sock.name and not sock.peer and not sock.HasField("peer_name"):
            return False
        return sock.state == ESTABLISHED and sock.peer not in self.outside and sock.peer not in self.by_ino

    def _stand_in(self, sock: UnixSkEntry, id: int) -> None:
        """An entry for the peer that is gone; its number as an inode is no inode of the images.

        It gets its name back, but no path that could be somebody else's by now.
        """
        peer = UnixSkEntry(
            id=id, ino=self._next_ino(), type=sock.type, state=ESTABLISHED, flags=0, uflags=0, backlog=0,
            peer=sock.ino, opts=SkOptsEntry(), name=sock.peer_name,
        )  # fmt: skip
        if is_path(peer.name):
            self._share_path(peer)
        sock.peer = peer.ino
        self.by_id[id] = self.by_ino[peer.ino] = peer
        self.gone[id] = FileEntry(type=FdTypes.UNIXSK, id=id, usk=peer)

    def _next_ino(self) -> int:
        return next(ino for ino in self._inos if ino not in self.by_ino)

    def _share_path(self, peer: UnixSkEntry) -> None:
        owner = next((sock for sock in self.by_id.values() if plain(sock.name) == plain(peer.name)), None)
        if owner is None:
            peer.name = b""
            return
        peer.deleted = owner.deleted
        if owner.HasField("file_perms"):
            peer.file_perms.CopyFrom(owner.file_perms)

    def _find_pairs(self) -> dict[int, int]:
        """Sockets that are made connected to each other."""
        pairs: dict[int, int] = {}
        for sock in self.by_id.values():
            peer = self.by_ino.get(sock.peer)
            if peer is None or not self._is_pair(sock, peer):
                continue
            if sock.id in pairs or peer.id in pairs:
                continue
            pairs[sock.id], pairs[peer.id] = peer.id, sock.id
        return pairs

    def _find_groups(self) -> dict[int, list[int]]:
        """Sockets that need each other to be made: one task makes all of them, whoever has them."""
        groups = {id: [id] for id in self.by_id}
        for one, other in self._needs():
            small, large = sorted((groups[one], groups[other]), key=len)
            if small is not large:
                large += small
                groups |= dict.fromkeys(small, large)
        return groups

    def _needs(self) -> Iterator[tuple[int, int]]:
        by_name = {
            plain(sock.name): sock.id for sock in self.by_id.values() if sock.name and sock.type == socket.SOCK_DGRAM
        }
        for sock in self.by_id.values():
            if sock.peer in self.by_ino:
                yield sock.id, self.by_ino[sock.peer].id
        for record in self._packets:
            if (sender := plain(record.message.sender)) in by_name:
                yield record.message.id_for, by_name[sender]

    def _is_pair(self, sock: UnixSkEntry, peer: UnixSkEntry) -> bool:
        """Datagram sockets can be connected later by name, and must where others sent to them before."""
        if sock.type != socket.SOCK_DGRAM:
            return peer.peer == sock.ino
        return not peer.name or peer.id in self.gone or (not sock.name and peer.peer == sock.ino)

    def packets_for(self, numbers: Mapping[int, int]) -> list[Record[SkPacketEntry]]:
        """Packets of the sockets that have a number."""
        return [record for record in self._packets if record.message.id_for in numbers]

    def in_flight(self, files: Collection[int]) -> list[int]:
        """What is in the queues of the sockets among `files`, and in the queues of those, whoever has it open."""
        found: dict[int, None] = {}
        sockets = set(files)
        while True:
            rights = [id for record in self._packets if record.message.id_for in sockets
                      for scm in record.message.scm for id in scm.rights]  # fmt: skip
            if sockets.issuperset(rights):
                return list(found)
            found |= dict.fromkeys(rights)
            for id in rights:
                sockets.update(self.made_with(id))

    def made_with(self, id: int) -> list[int]:
        """The socket itself, and those that have to be made by the same task."""
        return [id, *(other for other in self._groups.get(id, ()) if other != id)]

    def plan_made(self, ids: Sequence[int], fds: FdAllocator, why: Why) -> tuple[Program, dict[int, int]]:
        """Sockets, pairs of them connected: ops, and the number of each by id."""
        ops: list[Syscall] = []
        made: dict[int, int] = {}
        for id in ids:
            if id not in made:
                program, numbers = self._plan_pair(id, fds, why(id))
                ops += program
                made |= numbers
        return tuple(ops), made

    def _plan_pair(self, id: int, fds: FdAllocator, why: str) -> tuple[Program, dict[int, int]]:
        if id not in self.by_id:
            raise ImageError("files.img", f"file {id} is no socket that can be made")
        peer = self.pairs.get(id)
        if peer is None:
            fd = fds.take()
            return (Syscall("socket", (socket.AF_UNIX, self.by_id[id].type, 0), why),), {id: fd}
        server = next((one for one in (id, peer) if self._is_accepted(self.by_id[one])), None)
        if server is None:
            return self._plan_socketpair((id, peer), fds, why)
        return self._plan_accepted(peer if server == id else id, server, fds, why)

    def _is_accepted(self, sock: UnixSkEntry) -> bool:
        """It has the name of another socket too: an abstract one, which only accept(2) gives away twice."""
        return sock.type != socket.SOCK_DGRAM and bool(sock.name) and self._is_shared(sock.name)

    def _is_shared(self, name: bytes) -> bool:
        return not is_path(name) and self._names[name] > 1

    def _plan_socketpair(self, pair: tuple[int, int], fds: FdAllocator, why: str) -> tuple[Program, dict[int, int]]:
        made = {id: fds.take() for id in pair}
        first = self.by_id[pair[0]]
        ops = as_owner([Syscall("socketpair", (socket.AF_UNIX, first.type, 0, Out(8)), why)], _cred(first), why)
        return (*ops, *self._bind_pair(made, why)), made

    def _plan_accepted(self, client: int, server: int, fds: FdAllocator, why: str) -> tuple[Program, dict[int, int]]:
        """By a listener of the same name, which is gone again before the real one is bound."""
        sock = self.by_id[server]
        listener, connecting, accepted = fds.take(), fds.take(), fds.take()
        make = Syscall("socket", (socket.AF_UNIX, sock.type, 0), why)
        again = Syscall("socket", (socket.AF_UNIX, sock.type, 0), why)
        connected = as_owner(
            [
                Syscall("listen", (listener, 1), f"{why}: listener for one"),
                connect_op(connecting, sock.name, why),
                Syscall("accept4", (listener, 0, 0, 0), f"{why}: accept"),
            ],
            _cred(sock),
            why,
        )
        bind = Syscall("bind", (listener, address(sock.name), len(address(sock.name))), f"{why}: its listener's name")
        close = Syscall("close", (listener,), f"{why}: listener for one")
        fds.release(listener)
        made = {client: connecting, server: accepted}
        return (make, again, bind, *connected, close, *self._bind_pair({client: connecting}, why)), made

    def _bind_pair(self, made: Mapping[int, int], why: str) -> Iterator[Syscall]:
        """Names of connection-oriented sockets at once: a listener of the same path shall be bound after them."""
        for id, fd in made.items():
            sock = self.by_id[id]
            if sock.type != socket.SOCK_DGRAM:
                yield from self._bind(fd, sock, why)
                yield from unlink_ops(sock, why)

    def _bind(self, fd: int, sock: UnixSkEntry, why: str) -> Iterator[Syscall]:
        """The abstract name of a peer that is gone may be somebody else's by now."""
        for op in bind_ops(fd, sock, why):
            yield Syscall(op.name, op.args, op.why, may_fail=op.may_fail or (sock.id in self.gone))

    def plan_finish(self, numbers: Mapping[int, int], why: Why) -> Program:
        """Names and listeners, who waits for accept(2), services outside."""
        ops: list[Syscall] = []
        mine = [(sock, numbers[id]) for id, sock in self.by_id.items() if id in numbers]
        for sock, fd in mine:
            if sock.id not in self.pairs or sock.type == socket.SOCK_DGRAM:
                ops += self._bind(fd, sock, why(sock.id))
            if sock.state == LISTEN:
                listen = Syscall("listen", (fd, sock.backlog), f"{why(sock.id)}: listen")
                ops += as_owner([listen], _cred(sock), why(sock.id))
        for sock, _ in mine:
            if sock.state == LISTEN:
                ops += self._connect_waiting(sock, numbers, why)
        for sock, fd in mine:
            if (outside := self.outside.get(sock.peer)) is not None and sock.type != socket.SOCK_DGRAM:
                ops += _connect_outside(sock, fd, outside.name, why(sock.id))
        return tuple(ops)

    def _connect_waiting(self, listener: UnixSkEntry, numbers: Mapping[int, int], why: Why) -> Iterator[Syscall]:
        clients = [sock for sock in self.by_id.values() if sock.peer == listener.ino and sock.id not in self.pairs]
        order = {ino: place for place, ino in enumerate(listener.waiting)}
        for client in sorted(clients, key=lambda sock: order.get(sock.ino, len(order))):
            if client.type == listener.type:
                op = connect_op(numbers[client.id], listener.name, why(client.id))
                yield from as_owner([op], _cred(client), why(client.id))

    def route(self, packet: SkPacketEntry, numbers: Mapping[int, int]) -> Route:
        """How a packet comes into its socket: by its peer, by the socket of the sender's name, by one made for it."""
        receiver = self.by_id[packet.id_for]
        peer = self.by_ino.get(receiver.peer)
        if receiver.type != socket.SOCK_DGRAM or receiver.id in self.pairs:
            if peer is None or peer.id not in numbers:
                raise ImageError("sk-queues.img", f"socket {receiver.id} has a queue and no peer")
            return Route(numbers[peer.id])
        if not receiver.name:
            raise ImageError("sk-queues.img", f"socket {receiver.id} has a queue and neither a peer nor a name")
        name = plain(packet.sender)
        sender = next((sock for sock in self.by_id.values() if name and plain(sock.name) == name), None)
        if sender is not None and sender.id in numbers:
            return Route(numbers[sender.id], receiver.name)
        return Route(None, receiver.name, b"" if is_path(packet.sender) else packet.sender)

    def plan_last(self, numbers: Mapping[int, int], rooms: Mapping[int, int], why: Why) -> Program:
        """Everything that would be in the way before the queues are full. `rooms`: send buffers set on the way."""
        ops: list[Syscall] = []
        mine = [(sock, numbers[id]) for id, sock in self.by_id.items() if id in numbers and id not in self.gone]
        for sock, fd in mine:
            peer = self.by_ino.get(sock.peer) or self.outside.get(sock.peer)
            if sock.type == socket.SOCK_DGRAM and peer is not None and not self._paired(sock, peer):
                ops.append(connect_op(fd, peer.name, why(sock.id)))
        for sock, fd in mine:
            if sock.reset:
                ops.append(Syscall("write", (fd, b"\0", 1), f"{why(sock.id)}: unread by the peer that is gone"))
        for sock, fd in mine:
            paired = sock.id in self.pairs and sock.type != socket.SOCK_DGRAM
            ops += _end_ops(sock, fd, rooms.get(fd, 0), paired, why(sock.id))
        return tuple(ops)

    def _paired(self, sock: UnixSkEntry, peer: UnixSkEntry) -> bool:
        return self.pairs.get(sock.id) == peer.id


def _cred(sock: UnixSkEntry) -> SkUcredEntry:
    """Whose ids the socket shall show; root where the image does not tell."""
    return sock.peer_cred if sock.HasField("peer_cred") else SkUcredEntry(uid=0, gid=0, pid=0)


def _connect_outside(sock: UnixSkEntry, fd: int, name: bytes, why: str) -> Iterator[Syscall]:
    yield connect_op(fd, name, why)
    if sock.greeting:
        yield Syscall("write", (fd, sock.greeting, len(sock.greeting)), f"{why}: greeting")


def _end_ops(sock: UnixSkEntry, fd: int, room: int, paired: bool, why: str) -> Iterator[Syscall]:
    """Shutdown, options (SO_PASSCRED binds whoever sends or connects, so it comes late), flags."""
    if sock.shutdown != SkShutdown.NONE:
        yield Syscall("shutdown", (fd, sock.shutdown - 1), f"{why}: shutdown")
    yield from option_ops(fd, sock.opts, why)
    if room:
        yield set_option(fd, socket.SOL_SOCKET, SO_SNDBUFFORCE, sock.opts.so_sndbuf // 2, why)
        lock = set_option(fd, socket.SOL_SOCKET, SO_BUF_LOCK, struct.pack("<i", sock.opts.so_buf_lock & 3), why)
        yield Syscall(lock.name, lock.args, lock.why, may_fail=True)
    if sock.HasField("peek_off"):
        yield set_option(fd, socket.SOL_SOCKET, SO_PEEK_OFF, struct.pack("<i", sock.peek_off), why)
    if not paired:
        yield from unlink_ops(sock, why)
    yield from owner_and_flags_ops(fd, sock.flags, sock.fown, 0, why)
