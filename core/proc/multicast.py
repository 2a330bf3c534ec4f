"""/proc/net/igmp and igmp6: the multicast groups that the interfaces of our network namespace are in."""

import struct
from pathlib import Path
from typing import Final, NamedTuple

from core.proc.text import malformed

IGMP: Final = Path("/proc/net/igmp")
IGMP6: Final = Path("/proc/net/igmp6")


class Group(NamedTuple):
    """One, of IPv4 or IPv6 by the size of its address."""

    interface: int
    address: bytes


def read_groups() -> tuple[Group, ...]:
    """All of them, whoever joined."""
    found = parse_igmp(IGMP.read_text())
    return found + parse_igmp6(IGMP6.read_text()) if IGMP6.exists() else found


def parse_igmp(text: str) -> tuple[Group, ...]:
    """A line for each interface, one that is indented for each of its groups, a number as the machine has it."""
    found, interface = [], 0
    for number, line in enumerate(text.splitlines()[1:], 2):
        try:
            word = line.split()[0]
            if line[0].isspace():
                found.append(Group(interface, struct.pack("=I", int(word, 16))))
            else:
                interface = int(word)
        except (ValueError, IndexError, struct.error):
            raise malformed("net/igmp", number, line) from None
    return tuple(found)


def parse_igmp6(text: str) -> tuple[Group, ...]:
    """A line for each group: the interface's number and name, the address."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            interface, _, address = line.split()[:3]
            found.append(Group(int(interface), bytes.fromhex(address)))
        except ValueError:
            raise malformed("net/igmp6", number, line) from None
    return tuple(found)
