import ctypes
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.errors import Refused
from core.images import kinds
from core.options import TcpChoice
from core.plan.socket_options import filter_length, has_filter
from core.resources import file_table, table_plan, tcp_socket
from tests.requires import require_root
from tests.unit.resources.local_executor import FILES_ID, READER, LocalTask, restored_task, source_task

FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]


@contextmanager
def theirs(task: LocalTask, fd: int) -> Iterator[socket.socket]:
    with socket.socket(fileno=task.duplicate(fd)) as live:
        yield live


def listener(family: int, address: str, backlog: int = 5) -> socket.socket:
    """With SO_REUSEADDR, as servers have it: without, ended connections hold the port for a minute."""
    live = socket.create_server((address, 0), family=family, backlog=backlog)
    return live


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_a_listening_socket_listens_again_at_its_address(family: int, address: str) -> None:
    with source_task(lambda: listener(family, address, 7)) as source:
        with theirs(source, 0) as live:
            name = live.getsockname()
        images = source.collect()
    with restored_task(images) as restored, theirs(restored, 0) as live:
        assert live.getsockname() == name
        assert tcp_socket.read_status(live) == tcp_socket.TcpStatus(tcp_socket.State.LISTEN, 0, 7)
        with socket.create_connection(name[:2]), live.accept()[0] as accepted:
            assert accepted.getsockname() == name


INT_OPTIONS = {
    (socket.SOL_SOCKET, socket.SO_REUSEADDR): 1,
    (socket.SOL_SOCKET, socket.SO_REUSEPORT): 1,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.SOL_SOCKET, socket.SO_OOBINLINE): 1,
    (socket.SOL_SOCKET, socket.SO_PRIORITY): 3,
    (socket.SOL_SOCKET, socket.SO_MARK): 77,
    (socket.SOL_SOCKET, socket.SO_RCVLOWAT): 9,
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
    (socket.IPPROTO_TCP, socket.TCP_CORK): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 4,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 50,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 6,
    (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT): 3,
    (socket.IPPROTO_TCP, socket.TCP_FASTOPEN): 11,
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT): 12000,
    (socket.IPPROTO_IP, socket.IP_TOS): 0x10,
    (socket.IPPROTO_IP, socket.IP_TTL): 33,
    (socket.IPPROTO_IP, 15): 1,  # IP_FREEBIND
}
BYTE_OPTIONS = {
    (socket.SOL_SOCKET, socket.SO_RCVTIMEO): struct.pack("qq", 3, 250000),
    (socket.SOL_SOCKET, socket.SO_SNDTIMEO): struct.pack("qq", 4, 0),
    (socket.SOL_SOCKET, socket.SO_LINGER): struct.pack("ii", 1, 0),
    (socket.SOL_SOCKET, socket.SO_BINDTODEVICE): b"lo\0",
}


def test_options_come_back_and_are_not_invented() -> None:
    read = [*INT_OPTIONS, (socket.SOL_SOCKET, socket.SO_SNDBUF), (socket.SOL_SOCKET, socket.SO_RCVBUF), (1, 72)]

    def setup() -> object:
        plain, rich = socket.socket(), socket.socket()
        for (level, option), value in INT_OPTIONS.items():
            rich.setsockopt(level, option, value)
        for (level, option), content in BYTE_OPTIONS.items():
            rich.setsockopt(level, option, content)
        rich.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 300_000)
        rich.bind(("127.0.0.1", 0))
        rich.listen()
        return plain, rich

    with source_task(setup) as source:
        before = {}
        for fd in (0, 1):
            with theirs(source, fd) as live:
                before[fd] = [live.getsockopt(*option) for option in read] + [
                    live.getsockopt(*option, 16) for option in BYTE_OPTIONS
                ]
        images = source.collect()
    with restored_task(images) as restored:
        for fd in (0, 1):
            with theirs(restored, fd) as live:
                after = [live.getsockopt(*option) for option in read]
                assert after + [live.getsockopt(*option, 16) for option in BYTE_OPTIONS] == before[fd]
    assert before[0] != before[1]


DATAGRAM_OPTIONS = {
    (socket.IPPROTO_IP, 10): 2,  # IP_MTU_DISCOVER
    (socket.IPPROTO_IP, 11): 1,  # IP_RECVERR
    (socket.IPPROTO_IP, 8): 1,  # IP_PKTINFO
}
DATAGRAM6_OPTIONS = {
    (socket.IPPROTO_IPV6, 23): 0,  # IPV6_MTU_DISCOVER
    (socket.IPPROTO_IPV6, 25): 1,  # IPV6_RECVERR
    (socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO): 1,
    (socket.IPPROTO_IPV6, socket.IPV6_TCLASS): 0x20,
    (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS): 12,
}


@pytest.mark.parametrize("options", [DATAGRAM_OPTIONS, DATAGRAM_OPTIONS | DATAGRAM6_OPTIONS], ids=["v4", "v6"])
def test_what_name_servers_ask_of_datagrams_comes_back_and_is_not_invented(
    options: dict[tuple[int, int], int],
) -> None:
    family = socket.AF_INET if options is DATAGRAM_OPTIONS else socket.AF_INET6

    def setup() -> object:
        plain, rich = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
        for (level, option), value in options.items():
            rich.setsockopt(level, option, value)
        return plain, rich

    def read(fd: int, task: LocalTask) -> list[int]:
        with theirs(task, fd) as live:
            return [live.getsockopt(*option) for option in options]

    with source_task(setup) as source:
        before = [read(fd, source) for fd in (0, 1)]
        images = source.collect()
    with restored_task(images) as restored:
        assert [read(fd, restored) for fd in (0, 1)] == before
    assert before[1] == list(options.values()) and all(one != two for one, two in zip(*before, strict=True))


def test_flags_and_dual_stack_are_kept_per_socket() -> None:
    def setup() -> object:
        only, both = socket.socket(socket.AF_INET6), socket.socket(socket.AF_INET6)
        only.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        both.setblocking(False)
        for live in (only, both):
            live.bind(("::", 0))
            live.listen(3)
        return only, both

    with source_task(setup) as source:
        flags = [source.info(fd).flags for fd in (0, 1)]
        images = source.collect()
    with restored_task(images) as restored:
        assert [restored.info(fd).flags for fd in (0, 1)] == flags
        found = []
        for fd in (0, 1):
            with theirs(restored, fd) as live:
                found.append(live.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))
        assert found == [1, 0]


def test_a_bound_socket_that_does_not_listen_is_only_bound() -> None:
    def setup() -> object:
        live = socket.socket()
        live.bind(("127.0.0.1", 0))
        return live

    with source_task(setup) as source:
        with theirs(source, 0) as live:
            name = live.getsockname()
        images = source.collect()
    with restored_task(images) as restored, theirs(restored, 0) as live:
        assert live.getsockname() == name
        assert tcp_socket.read_status(live).state == tcp_socket.State.CLOSE


def test_two_listeners_on_one_port_come_back_together() -> None:
    def setup() -> object:
        first, second = socket.socket(), socket.socket()
        for live in (first, second):
            live.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        second.bind(first.getsockname())
        first.listen(2)
        second.listen(2)
        return first, second

    with source_task(setup) as source:
        images = source.collect()
    with restored_task(images) as restored, theirs(restored, 0) as first, theirs(restored, 1) as second:
        assert first.getsockname() == second.getsockname()


def served_client() -> object:
    """fd 0 listens, fd 1 is a client, fd 2 what was accepted."""
    live = listener(socket.AF_INET, "127.0.0.1")
    client = socket.create_connection(live.getsockname())
    accepted, _ = live.accept()
    accepted.setblocking(False)
    return live, client, accepted


def test_a_connection_is_refused_unless_the_user_gives_it_up() -> None:
    with source_task(served_client) as source:
        choices: tuple[TcpChoice, ...] = ("refuse", "established")
        for choice in choices:
            with source.table(choice) as table:
                blockers = file_table.refuse(table)
                assert [blocker.code for blocker in blockers] == ["fd-tcp-established"] * 2
                assert all("--tcp close" in (blocker.hint or "") for blocker in blockers)
        blockers, losses = file_table.probe_table(source.pid, source.pidfd, READER, "close")
        assert blockers == []
        assert len(losses) == 1
        assert losses[0].startswith("2 TCP connections will be closed: fd 1: 127.0.0.1:")
        with pytest.raises(Refused):
            source.collect()
        with pytest.raises(Refused):
            table_plan.plan(source.collect("close"), FILES_ID, tcp="refuse")


def test_a_given_up_connection_looks_closed_by_its_peer() -> None:
    with source_task(served_client) as source:
        images = source.collect("close")
    with restored_task(images, "close") as restored, theirs(restored, 2) as live:
        poll = select.epoll()
        poll.register(live.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
        assert poll.poll(0) == [(live.fileno(), select.EPOLLIN | select.EPOLLHUP | select.EPOLLRDHUP)]
        poll.close()
        assert live.recv(10) == b""
        with pytest.raises(BrokenPipeError):
            live.send(b"x")
        live.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        live.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        assert restored.info(2).flags & 0o4000
        # Moved on before the program closed it: nothing to refuse, and it still looks closed.
        again = restored.collect()
    with restored_task(again) as restored, theirs(restored, 2) as live:
        assert live.recv(10) == b""


def test_a_connection_that_its_peer_reset_stays_ended() -> None:
    def setup() -> object:
        live = listener(socket.AF_INET, "127.0.0.1")
        client = socket.create_connection(live.getsockname())
        accepted, _ = live.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        live.close()
        select.select([accepted], [], [])
        return accepted

    with source_task(setup) as source:
        images = source.collect()
        (fd,) = source.fds()
    with restored_task(images) as restored, theirs(restored, fd) as live:
        assert live.recv(10) == b""


def test_connections_that_wait_for_accept_are_told() -> None:
    def setup() -> object:
        live = listener(socket.AF_INET, "127.0.0.1")
        return live, socket.create_connection(live.getsockname())

    with source_task(setup) as source:
        with source.table() as table:
            assert "1 connections to 127.0.0.1:" in file_table.refuse(table)[0].reason
        _, losses = file_table.probe_table(source.pid, source.pidfd, READER, "close")
        assert losses[0].startswith("1 connections waiting for accept are lost: fd 0, 127.0.0.1:")
        images = source.collect("close")
    with restored_task(images, "close") as restored, theirs(restored, 0) as live:
        assert tcp_socket.read_status(live).waiting == 0


def test_epoll_watches_listeners_and_given_up_connections() -> None:
    def setup() -> object:
        sockets = served_client()
        poll = select.epoll()
        for fd in (0, 2):
            poll.register(fd, select.EPOLLIN)
        return sockets, poll

    with source_task(setup) as source:
        images = source.collect("close")
    with restored_task(images, "close") as restored, select.epoll.fromfd(restored.duplicate(3)) as poll:
        assert poll.poll(0) == [(2, select.EPOLLIN | select.EPOLLHUP)]


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_udp_keeps_address_and_peer(family: int, address: str) -> None:
    def setup() -> object:
        bound, connected, plain = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(3))
        bound.bind((address, 0))
        connected.connect(bound.getsockname())
        return bound, connected, plain

    with source_task(setup) as source:
        with theirs(source, 0) as bound, theirs(source, 1) as connected:
            names = bound.getsockname(), connected.getsockname()
        images = source.collect()
    with restored_task(images) as restored, theirs(restored, 0) as bound, theirs(restored, 1) as connected:
        assert (bound.getsockname(), connected.getsockname()) == names
        connected.send(b"hello")
        assert bound.recvfrom(10)[0] == b"hello"


def test_waiting_datagrams_are_told() -> None:
    def setup() -> object:
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("127.0.0.1", 0))
        bound.sendto(b"x", bound.getsockname())
        return bound

    with source_task(setup) as source:
        blockers, losses = file_table.probe_table(source.pid, source.pidfd, READER, "refuse")
        assert blockers == []
        assert losses == [f"datagrams that wait in fd 0 ({source.link(0)}) are lost"]


def test_a_filter_is_found_without_reading_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as live:
        assert not has_filter(live)
        attach_accept_all(live)
        assert has_filter(live)


def attach_accept_all(live: socket.socket) -> None:
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xFFFF))
    live.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxQ", 1, ctypes.addressof(instruction)))


def test_a_filter_is_attached_anew() -> None:
    def setup() -> object:
        datagrams, listening = socket.socket(type=socket.SOCK_DGRAM), listener(socket.AF_INET, "127.0.0.1")
        attach_accept_all(datagrams)
        attach_accept_all(listening)
        return datagrams, listening

    with source_task(setup) as source:
        with source.table() as table:
            assert file_table.refuse(table) == []
        images = source.collect()
    with restored_task(images) as restored:
        for fd in (0, 1):
            with theirs(restored, fd) as live:
                assert filter_length(live) == 1


def test_other_families_are_refused_by_name() -> None:
    require_root()
    with source_task(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as source, source.table() as table:
        (blocker,) = file_table.refuse(table)
        assert "AF_PACKET" in blocker.reason


def test_a_raw_socket_of_udp_is_none_of_udp() -> None:
    require_root()
    make = lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)  # noqa: E731
    with source_task(make) as source, source.table() as table:
        (blocker,) = file_table.refuse(table)
        assert "AF_INET" in blocker.reason


def test_images_hold_what_criu_reads() -> None:
    with source_task(lambda: listener(socket.AF_INET6, "::1")) as source:
        (entry,) = source.collect().all(kinds.FILES)
    assert list(entry.isk.src_addr) == [0, 0, 0, 1 << 24]
    assert list(entry.isk.dst_addr) == [0, 0, 0, 0]
    assert (entry.isk.state, entry.isk.backlog, entry.isk.dst_port) == (10, 5, 0)
