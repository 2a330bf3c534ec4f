"""A socket's groups are found among all that there are, with however many sources, without much room for each."""

import socket
import struct
from collections.abc import Iterator

import pytest

from core.plan import memberships
from core.plan.memberships import MCAST_JOIN_SOURCE_GROUP, STORAGE, read_memberships

GROUP = "ff15::4711"
MOST_BYTES = 4096


def address(text: str) -> bytes:
    """struct sockaddr_storage."""
    head = struct.pack("<HHI", socket.AF_INET6, 0, 0)
    return (head + socket.inet_pton(socket.AF_INET6, text)).ljust(STORAGE, b"\0")


@pytest.fixture(params=[1, 8, 9, 40])
def joined(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, int]]:
    """A socket that wants what so many sources send to GROUP, on the loopback interface."""
    lo = struct.pack("<I4x", socket.if_nametoindex("lo"))
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP) as live:
        for number in range(request.param):
            source = address(f"2001:db8::{number + 1:x}")
            live.setsockopt(socket.IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, lo + address(GROUP) + source)
        yield live, request.param


def test_all_sources_are_told(joined: tuple[socket.socket, int]) -> None:
    live, count = joined
    found = list(read_memberships(live))
    wanted = {address(f"2001:db8::{number + 1:x}") for number in range(count)}
    assert {(one.option, one.interface) for one in found} == {(MCAST_JOIN_SOURCE_GROUP, "lo")}
    assert len(found) == count and {one.value[8 + STORAGE :] for one in found} == wanted


def test_groups_that_it_is_not_in_take_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may stand still while hundreds of groups are asked for with each of its sockets."""
    sizes, real = list[int](), memberships.address_of

    def measured(content: bytearray) -> int:
        sizes.append(len(content))
        return real(content)

    monkeypatch.setattr(memberships, "address_of", measured)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_UDP) as live:
        monkeypatch.setattr(memberships, "has_attached", lambda _: True)
        assert list(read_memberships(live)) == []
    assert 0 < max(sizes) <= MOST_BYTES
