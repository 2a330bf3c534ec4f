"""A socket that is bound to an interface which is gone is refused by name: without it, it would be open to all."""

import ctypes
import socket
import subprocess

from core.preflight.socket_options import collect_options
from core.resources import file_table
from core.resources.context import open_files
from tests.requires import require_root
from tests.unit.resources.local_executor import READER, source_task

CLONE_NEWNET = 0x40000000
COMMANDS = ("link add gone0 type veth peer name gone1", "link del gone0")


def bound_to_one_that_is_gone() -> list[socket.socket]:
    """In a network of its own: a UDP and a listening TCP socket."""
    assert ctypes.CDLL(None).unshare(CLONE_NEWNET) == 0
    make, remove = (["ip", *command.split()] for command in COMMANDS)
    subprocess.run(make, check=True)
    bound = [socket.socket(socket.AF_INET, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)]
    for one in bound:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"gone0\0")
    bound[1].listen()
    subprocess.run(remove, check=True)
    return bound


def test_sockets_of_an_interface_that_is_gone_are_refused() -> None:
    require_root()
    with source_task(bound_to_one_that_is_gone) as source:
        blockers, _ = file_table.probe_table(source.pid, source.pidfd, READER, "refuse")
        with open_files(source.pid, READER, source.pidfd) as files:
            assert collect_options(files) == ()
    reasons = [one.reason for one in blockers]
    assert [reason[:3] for reason in reasons] == ["UDP", "TCP"], reasons
    assert all("is bound to an interface which is gone" in reason for reason in reasons)
