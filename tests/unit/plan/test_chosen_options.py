"""What nobody chose is left to the host, whatever the socket has lived through."""

import errno
import socket
from collections.abc import Iterator

import pytest

from core.images.pb.sockets_pb2 import SocketOption
from core.plan.chosen_options import chosen_ops, read_chosen
from core.plan.socket_options import borrowed_socket

LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def lived(family: socket.AddressFamily) -> Iterator[socket.socket]:
    """New, listening, connected and accepted, both after a reset; refused; UDP with and without a peer."""
    here = (LOOPBACK[family], 0)
    new, client, refused = (socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) for _ in range(3))
    with socket.create_server(here, family=family) as server, new, client, refused:
        yield from (new, server)
        for resets_first in (False, True):
            with socket.create_connection(server.getsockname()[:2]) as one, server.accept()[0] as other:
                yield from (one, other)
                first, second = (one, other) if resets_first else (other, one)
                first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1" + bytes(7))
                first.close()
                with pytest.raises(ConnectionResetError):
                    second.recv(1)
                yield second
        with pytest.raises(ConnectionRefusedError):
            refused.connect((LOOPBACK[family], 1))
        yield refused
    udp = (family, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    with socket.socket(*udp) as bound, socket.socket(*udp) as sender:
        bound.bind(here)
        sender.connect(bound.getsockname())
        sender.send(b"x")
        assert bound.recv(1)
        yield from (bound, sender)


def chosen(live: socket.socket) -> list[SocketOption]:
    """Of the socket as it is, whatever it was called with."""
    with borrowed_socket(live.fileno()) as same:
        return list(read_chosen(same))


@pytest.mark.parametrize("family", LOOPBACK)
def test_nothing_is_chosen_where_nobody_chose(family: socket.AddressFamily) -> None:
    assert [chosen(one) for one in lived(family)] == [[]] * 11


def test_an_interface_goes_by_its_name() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as live:
        live.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("lo"))
        (found,) = chosen(live)
    assert found.interface == "lo"
    found.value = b"\7\0\0\0"  # the number that it had elsewhere
    (op,) = chosen_ops(3, [found], "fd 3")
    assert op.args == (3, socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, b"\1\0\0\0", 4)


@pytest.mark.parametrize("peeked", [0, 3])
def test_peeking_at_datagrams_begins_anew_as_they_are_lost(peeked: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as live:
        live.setsockopt(socket.SOL_SOCKET, 42, peeked)
        (found,) = chosen(live)
    assert found.value == bytes(4)


@pytest.mark.parametrize("family", LOOPBACK)
def test_a_connection_that_has_ended_leaves_no_numbering_behind(family: socket.AddressFamily) -> None:
    """SOF_TIMESTAMPING_OPT_ID is for connections alone: a new socket does not take it."""
    made = (family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    with socket.create_server((LOOPBACK[family], 0), family=family) as server, socket.socket(*made) as new:
        with socket.create_connection(server.getsockname()[:2]) as ended, server.accept()[0] as other:
            ended.setsockopt(socket.SOL_SOCKET, 37, (1 << 1 | 1 << 4 | 1 << 7).to_bytes(8, "little"))
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1" + bytes(7))
            other.close()
            with pytest.raises(ConnectionResetError):
                ended.recv(1)
            (found,) = chosen(ended)
        new.setsockopt(found.level, found.option, found.value)
        assert chosen(new) == [found]


def test_an_interface_that_is_gone_is_not_taken_for_the_one_that_has_its_number_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(index: int) -> str:
        raise OSError(errno.ENXIO, str(index))

    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as live:
        live.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("lo"))
        live.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 7)
        monkeypatch.setattr(socket, "if_indextoname", gone)
        assert [one.option for one in chosen(live)] == [socket.IPV6_MULTICAST_HOPS]
