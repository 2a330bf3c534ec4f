import select
import socket
import struct
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrate.errors import ConnectionLost, RemoteProtocolError
from migrate.transport import frames
from migrate.transport.frames import PREFACE, BlockingFrames, FrameDecoder, encode_frame

MESSAGES = [b"hello", b"", b"x" * 70_000, b"last"]
STREAM = PREFACE + b"".join(encode_frame(message) for message in MESSAGES)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    theirs.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def decode(*pieces: bytes) -> list[bytes]:
    decoder = FrameDecoder("host-b")
    found = [message for piece in pieces for message in decoder.feed(piece)]
    decoder.end()
    return found


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_frames_come_out_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert decode(*(STREAM[a:b] for a, b in pairwise(edges))) == MESSAGES


def test_a_login_banner_is_quoted_and_the_hint_says_where_it_comes_from() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(b"Last login: Tue Jan  6 10:00:00 2026\n" + STREAM)
    assert "host-b" in caught.value.message
    assert "Last login: Tue" in caught.value.message
    assert ".bashrc" in (caught.value.hint or "")


@pytest.mark.parametrize(("version", "older"), [(2, "here"), (0, "there")])
def test_another_version_of_the_framing_is_named_and_the_older_side_too(version: int, older: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(b"MGRT" + struct.pack(">H", version))
    assert f"version {version}" in caught.value.message
    assert f"the one {older} is the older" in (caught.value.hint or "")


def test_a_length_beyond_the_limit_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(RemoteProtocolError, match="announces a frame of 268435457 bytes"):
        decode(PREFACE + struct.pack(">I", (256 << 20) + 1))


def test_a_message_beyond_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "FRAME_MAX_BYTES", 10)
    assert encode_frame(b"x" * 10)
    with pytest.raises(RemoteProtocolError, match="11 bytes"):
        encode_frame(b"x" * 11)


@pytest.mark.parametrize("length", [1, len(PREFACE) - 1, len(PREFACE) + 2, len(PREFACE) + 6])
def test_an_end_in_the_middle_is_a_lost_connection(length: int) -> None:
    with pytest.raises(ConnectionLost, match="middle"):
        decode(STREAM[:length])


def test_the_end_after_the_preface_or_before_it_is_in_order() -> None:
    assert decode(PREFACE) == decode() == []


def test_blocking_frames_carry_messages_both_ways(pair: tuple[socket.socket, socket.socket]) -> None:
    large = b"y" * (3 << 20)

    def answer() -> None:
        far = BlockingFrames(pair[1])
        while (message := far.recv()) is not None:
            far.send(message)
        pair[1].shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=answer)
    thread.start()
    near = BlockingFrames(pair[0])
    for message in [*MESSAGES, large]:
        near.send(message)
        assert near.recv() == message
    pair[0].shutdown(socket.SHUT_WR)
    assert near.recv() is None
    thread.join(10)


def test_blocking_recv_never_reads_past_its_frame(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(STREAM)
    far = BlockingFrames(pair[1])
    for message in MESSAGES:
        assert select.select([far], [], [], 0)[0]
        assert far.recv() == message
    assert not select.select([far], [], [], 0)[0]


@pytest.mark.parametrize("length", [1, len(PREFACE) + 2, len(PREFACE) + 6])
def test_blocking_recv_reports_an_end_in_the_middle(pair: tuple[socket.socket, socket.socket], length: int) -> None:
    pair[0].sendall(STREAM[:length])
    pair[0].close()
    with pytest.raises(ConnectionLost, match="middle"):
        BlockingFrames(pair[1]).recv()


def test_blocking_recv_refuses_what_is_not_ours(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(b"Welcome!\n")
    with pytest.raises(RemoteProtocolError, match="'Welcom'"):
        BlockingFrames(pair[1]).recv()


def test_blocking_send_to_nobody_is_a_lost_connection(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].close()
    with pytest.raises(ConnectionLost):
        BlockingFrames(pair[0]).send(b"x" * (1 << 21))
