import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.errors import CollectError, Refused
from core.images import kinds
from core.resources import file_table, unix_queue
from core.resources.context import OpenFile, open_files
from tests.unit.resources.local_executor import READER, LocalTask, restored_task, source_task

SO_PEEK_OFF = 42


@contextmanager
def queue_of(task: LocalTask, fd: int) -> Iterator[tuple[OpenFile, list[unix_queue.Packet]]]:
    with open_files(task.pid, READER, task.pidfd) as files:
        file = next(one for one in files if one.fd == fd)
        packets = unix_queue.collect_queue(file)
        try:
            yield file, packets
        finally:
            unix_queue.close_all(packets)


def drain(task: LocalTask, fd: int, count: int, size: int = 1 << 20) -> list[bytes]:
    with socket.socket(fileno=task.duplicate(fd)) as live:
        live.setblocking(False)
        return [live.recv(size) for _ in range(count)]


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_packets_keep_their_borders_and_stay_where_they_are(kind: int) -> None:
    texts = [b"one", b"", b"three" * 5000, b"4"]

    def setup() -> object:
        ends = socket.socketpair(socket.AF_UNIX, kind)
        for text in texts:
            ends[0].send(text)
        return ends

    with source_task(setup) as source:
        with queue_of(source, 1) as (_, packets):
            assert [packet.payload for packet in packets] == texts
        assert drain(source, 1, 4) == texts


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize("behind", [[], [b"behind it"]])
def test_an_empty_packet_that_was_peeked_at_before_is_not_left_out(kind: int, behind: list[bytes]) -> None:
    def setup() -> object:
        ends = socket.socketpair(socket.AF_UNIX, kind)
        for text in (b"", *behind):
            ends[0].send(text)
        return ends

    with source_task(setup) as source:
        with queue_of(source, 1) as (_, packets):
            assert [packet.payload for packet in packets] == [b"", *behind]
        with pytest.raises(CollectError, match="peeked at before"), queue_of(source, 1):
            pass
        assert drain(source, 1, 1 + len(behind)) == [b"", *behind]


def test_a_packet_larger_than_the_first_look_is_seen_whole() -> None:
    large = os.urandom(150_000)

    def setup() -> object:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ends[0].send(large)
        return ends

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert drain(restored, 1, 1) == [large]


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_a_queue_shut_down_has_an_end(kind: int) -> None:
    def setup() -> object:
        ends = socket.socketpair(socket.AF_UNIX, kind)
        ends[0].send(b"last")
        ends[0].shutdown(socket.SHUT_WR)
        return ends

    with source_task(setup) as source, restored_task(source.collect()) as restored:
        assert drain(restored, 1, 3) == [b"last", b"", b""]


def test_descriptors_belong_to_the_piece_they_were_sent_with() -> None:
    def setup() -> object:
        ends = socket.socketpair()
        file = os.open("/dev/null", os.O_RDWR)
        ends[0].send(b"plain")
        ends[0].send(b"plain too")
        socket.send_fds(ends[0], [b"first"], [file])
        socket.send_fds(ends[0], [b"second"], [file, file])
        ends[0].send(b"end")
        return ends

    with source_task(setup) as source, queue_of(source, 1) as (_, packets):
        assert [(packet.payload, len(packet.fds)) for packet in packets] == [
            (b"plainplain too", 0), (b"first", 1), (b"second", 2), (b"end", 0),
        ]  # fmt: skip


@pytest.mark.parametrize("offset", [-1, 0, 3])
def test_the_offset_of_peeks_is_put_back(offset: int) -> None:
    def setup() -> object:
        ends = socket.socketpair()
        ends[0].send(b"content")
        ends[1].setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, offset)
        return ends

    def read_offset(task: LocalTask) -> int:
        with socket.socket(fileno=task.duplicate(1)) as live:
            return live.getsockopt(socket.SOL_SOCKET, SO_PEEK_OFF)

    with source_task(setup) as source:
        images = source.collect()
        assert read_offset(source) == offset
        with restored_task(images) as restored:
            assert read_offset(restored) == offset
            assert drain(restored, 1, 1) == [b"content"]


def test_a_file_in_flight_shares_its_entry_with_the_open_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("content")

    def setup() -> object:
        ends = socket.socketpair()
        file = os.open(path, os.O_RDONLY)
        socket.send_fds(ends[0], [b"x"], [file, os.open(path, os.O_RDONLY)])
        os.close(file + 1)
        return ends

    with source_task(setup) as source:
        images = source.collect()
    (packet,) = images.all(kinds.SK_QUEUES)
    numbers = {info.id: info.fd for info in images.all(kinds.FDINFO, 1)}
    opened, flying = packet.scm[0].rights
    assert numbers[opened] == 2
    assert flying not in numbers
    with restored_task(images) as restored:
        assert restored.fds() == [0, 1, 2]
        with socket.socket(fileno=restored.duplicate(1)) as live:
            _, fds, _, _ = socket.recv_fds(live, 10, 10)
        os.lseek(fds[0], 4, os.SEEK_SET)
        assert [restored.info(2).pos, os.lseek(fds[1], 0, os.SEEK_CUR)] == [4, 0]
        for fd in fds:
            os.close(fd)


def test_what_cannot_be_carried_is_refused_in_flight_too() -> None:
    def setup() -> object:
        ends = socket.socketpair()
        foreign = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        socket.send_fds(ends[0], [b"x"], [foreign.fileno()])
        return ends

    with source_task(setup) as source, pytest.raises(Refused, match=r"in flight to fd 1 .* cannot be carried"):
        source.collect()


def test_credentials_are_those_of_the_sender_and_unknown_ones_stay_unknown() -> None:
    def setup() -> object:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ends[1].setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ends[0].send(b"x")
        return ends

    with source_task(setup) as source:
        (packet,) = source.collect().all(kinds.SK_QUEUES)
        assert (packet.ucred.pid, packet.ucred.uid, packet.ucred.gid) == (source.pid, os.getuid(), os.getgid())


def test_a_full_queue_fits_again() -> None:
    def setup() -> object:
        ends = socket.socketpair()
        ends[0].setblocking(False)
        try:
            while True:
                ends[0].send(b"0123456789" * 40)
        except BlockingIOError:
            return ends

    with source_task(setup) as source:
        images = source.collect()
        ((_, expected),) = [(record.message, record.payload) for record in images.records(kinds.SK_QUEUES)]
        with restored_task(images) as restored:
            assert b"".join(drain(restored, 1, 1, 1 << 24)) == expected
            assert len(expected) > 50_000


def test_bytes_that_cannot_be_seen_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_queue, "_peek", lambda live, size: None)

    def setup() -> object:
        ends = socket.socketpair()
        ends[0].send(b"x")
        return ends

    with source_task(setup) as source, pytest.raises(CollectError, match="cannot read its queue"):
        source.collect()


def test_preflight_does_not_take_an_end_in_flight_for_somebody_elses() -> None:
    def setup() -> object:
        ends = socket.socketpair()
        reading, writing = os.pipe()
        inner, other = socket.socketpair()
        socket.send_fds(ends[0], [b"x"], [writing, inner.fileno()])
        os.close(writing)
        inner.close()
        return ends, reading, other

    with source_task(setup) as source:
        with source.table() as table:
            assert table.unseen
            assert file_table.refuse(table) == []
        with restored_task(source.collect()) as restored:
            assert len(restored.fds()) == 4
