import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from core.images import kinds
from core.images.pb.sockets_pb2 import UnixSkEntry
from core.plan.unix_names import ESTABLISHED, EXTERN, LISTEN, UNCONNECTED
from core.resources import file_presence, file_table, unix_socket
from tests.unit.resources.local_executor import FILES_ID, READER, LocalTask, restored_task, source_task

TYPES = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM]


@contextmanager
def borrowed(task: LocalTask, *fds: int) -> Iterator[list[socket.socket]]:
    """Our duplicates of its sockets."""
    found = [socket.socket(fileno=task.duplicate(fd)) for fd in fds]
    try:
        for live in found:
            live.setblocking(False)
        yield found
    finally:
        for live in found:
            live.close()


def unix_entries(images: object) -> list[UnixSkEntry]:
    return [entry.usk for entry in images.all(kinds.FILES)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("numbers", [(0, 1), (1, 0), (9, 2), (2, 9)])
def test_both_ends_of_a_pair_get_their_numbers(kind: int, numbers: tuple[int, int]) -> None:
    def setup() -> object:
        ends = socket.socketpair(socket.AF_UNIX, kind)
        high = [os.dup2(end.fileno(), 50 + index) for index, end in enumerate(ends)]
        for end in ends:
            end.detach()
        os.closerange(0, 50)
        for fd, number in zip(high, numbers, strict=True):
            os.dup2(fd, number)
        os.closerange(50, 60)
        return None

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert restored.fds() == sorted(numbers)
        with borrowed(restored, *numbers) as (first, second):
            first.send(b"there")
            assert second.recv(10) == b"there"
            second.send(b"back")
            assert first.recv(10) == b"back"


def test_entries_say_who_is_connected_to_whom() -> None:
    def setup() -> object:
        pair = socket.socketpair()
        half, gone = socket.socketpair()
        gone.close()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(b"\0who %d" % os.getpid())
        listener.listen(3)
        waiting = socket.socket(socket.AF_UNIX)
        waiting.connect(listener.getsockname())
        return pair, half, listener, waiting

    with source_task(setup) as source:
        first, second, half, listener, waiting = unix_entries(source.collect())
    assert (first.peer, second.peer) == (second.ino, first.ino)
    assert {first.state, second.state, half.state, waiting.state} == {ESTABLISHED}
    assert (half.peer, half.shutdown) == (0, 3)
    assert (listener.state, listener.peer, list(listener.waiting)) == (LISTEN, 0, [waiting.ino])
    assert waiting.peer == listener.ino


def test_a_collected_pair_lives_on_at_the_source() -> None:
    def setup() -> object:
        ends = socket.socketpair()
        ends[0].send(b"unread")
        return ends

    with source_task(setup) as source:
        source.collect()
        with borrowed(source, 0, 1) as (first, second):
            assert second.recv(10) == b"unread"
            first.send(b"more")
            assert second.recv(10) == b"more"


def test_a_peer_gone_is_gone_again_and_leaves_no_descriptor() -> None:
    def setup() -> object:
        left, gone = socket.socketpair()
        gone.send(b"farewell")
        gone.close()
        return left

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert restored.fds() == [0]
        with borrowed(restored, 0) as (left,):
            assert [left.recv(10), left.recv(10)] == [b"farewell", b""]


def test_the_name_of_a_peer_gone_comes_back_unless_it_is_a_path_of_others(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    def setup() -> object:
        sockets = []
        for name in (str(path), b"\0gone %d" % os.getpid()):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(name)
            listener.listen()
            client = socket.socket(socket.AF_UNIX)
            client.connect(name)
            listener.accept()[0].close()
            listener.close()
            sockets.append(client)
        return sockets

    with source_task(setup) as source:
        images = source.collect()
        abstract = b"\0gone %d" % source.pid
    path.unlink()
    path.write_text("somebody else's")
    with restored_task(images) as restored, borrowed(restored, *restored.fds()) as (by_path, by_name):
        assert by_path.getpeername() in ("", b"")
        assert by_name.getpeername() == abstract
    assert path.read_text() == "somebody else's"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_many_connections_share_the_abstract_name_of_one_listener(kind: int) -> None:
    def setup() -> object:
        listener = socket.socket(socket.AF_UNIX, kind)
        listener.bind(b"\0many %d" % os.getpid())
        listener.listen(8)
        pairs = []
        for _ in range(4):
            client = socket.socket(socket.AF_UNIX, kind)
            client.connect(listener.getsockname())
            pairs += [listener.accept()[0], client]
        return pairs, listener

    with source_task(setup) as source:
        images = source.collect()
        name = b"\0many %d" % source.pid
    with restored_task(images) as restored:
        listener_fd = next(fd for fd in restored.fds() if is_listening(restored, fd))
        assert len(restored.fds()) == 9
        with borrowed(restored, *restored.fds()) as found, socket.socket(socket.AF_UNIX, kind) as client:
            assert sum(one.getsockname() == name for one in found) == 5
            client.connect(name)
            with borrowed(restored, listener_fd) as (listener,):
                listener.accept()[0].close()


def is_listening(task: LocalTask, fd: int) -> bool:
    with borrowed(task, fd) as (live,):
        return bool(live.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def test_a_datagram_socket_connects_to_a_service_outside_again(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(path)

        def setup() -> object:
            client = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            client.connect(path)
            return client

        with source_task(setup) as source:
            with source.table() as table:
                (blocker,) = file_table.refuse(table)
                assert (blocker.code, "--ext-unix-sk" in (blocker.hint or "")) == ("fd-unix-outside", True)
            images = source.collect(ext_unix_sk=True)
        outside, client = unix_entries(images)
        assert (outside.uflags, outside.name, outside.state) == (EXTERN, path.encode(), UNCONNECTED)
        assert client.peer == outside.ino
        assert file_presence.verify(images, [FILES_ID]) == []
        with restored_task(images) as restored, borrowed(restored, 0) as (live,):
            live.send(b"line")
            assert service.recv(10) == b"line"
    os.unlink(path)
    assert [blocker.code for blocker in file_presence.verify(images, [FILES_ID])] == ["unix-outside"]


def test_the_journal_is_told_again_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stdout"
    monkeypatch.setattr(unix_socket, "JOURNAL_STREAM", os.fsencode(path))
    with socket.socket(socket.AF_UNIX) as journal:
        journal.bind(str(path))
        journal.listen()

        def setup() -> object:
            output = socket.socket(socket.AF_UNIX)
            output.connect(str(path))
            output.shutdown(socket.SHUT_RD)
            return output

        with source_task(setup) as source:
            accepted = journal.accept()[0]
            comm = Path(f"/proc/{source.pid}/comm").read_bytes()
            with source.table() as table:
                assert file_table.refuse(table) == []
                assert "new host" in unix_socket.losses(table)[0]
            images = source.collect()
            accepted.close()
        with restored_task(images) as restored, journal.accept()[0] as accepted, borrowed(restored, 0) as (output,):
            output.send(b"a line\n")
            assert accepted.recv(200) == comm + b"\n6\n1\n0\n0\n0\na line\n"


def test_preflight_names_who_holds_the_other_end() -> None:
    outside, given = socket.socketpair()
    with outside, given, source_task(lambda: None, keep=[given.fileno()]) as source, source.table() as table:
        holders = file_table.find_peer_holders(table, READER)
        (blocker,) = file_table.refuse(replace(table, holders=holders))
    assert f"process {os.getpid()} (" in blocker.reason
