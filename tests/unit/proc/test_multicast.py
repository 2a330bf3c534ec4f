"""Groups of the interfaces, as /proc/net tells them."""

import pytest

from core.errors import CollectError
from core.proc.multicast import Group, parse_igmp, parse_igmp6, read_groups

IGMP = """Idx\tDevice    : Count Querier\tReporter
1\tlo        :     2      V3
\t\t\t\t010107EF     1 0:00000000\t\t0
\t\t\t\t010000E0     1 0:00000000\t\t0
4\teth0      :     1      V3
\t\t\t\t010000E0     1 0:00000000\t\t0
"""
IGMP6 = """1    lo              ff020000000000000000000000000001     1 0000000C 0
4    eth0            ff0200000000000000000001ff000001     1 00000004 0
"""


def test_groups_come_with_their_interface() -> None:
    everybody = bytes([224, 0, 0, 1])
    assert parse_igmp(IGMP) == (Group(1, bytes([239, 7, 1, 1])), Group(1, everybody), Group(4, everybody))
    assert parse_igmp6(IGMP6) == (
        Group(1, bytes.fromhex("ff02") + bytes(13) + b"\1"),
        Group(4, bytes.fromhex("ff0200000000000000000001ff000001")),
    )


def test_every_host_has_some() -> None:
    assert Group(1, bytes([224, 0, 0, 1])) in read_groups()


@pytest.mark.parametrize("text", ["Idx\n\t\tnobody\n", "Idx\nx lo\n"])
def test_what_is_malformed_is_named(text: str) -> None:
    with pytest.raises(CollectError, match="net/igmp"):
        parse_igmp(text)
