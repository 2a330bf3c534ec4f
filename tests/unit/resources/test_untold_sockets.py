"""Sockets with what nobody can read are found however many there are, and none is held while the kernel is asked."""

import ctypes
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from core.kernel import socket_secrets
from core.kernel.calls import pidfd_open
from core.kernel.kernel_memory import KernelMemory, open_kernel_memory
from core.resources import untold_sockets
from tests.requires import require_root
from tests.unit.resources.local_executor import READER

SO_ATTACH_REUSEPORT_CBPF = 51
MANY = 60


@contextmanager
def refused_of_us() -> Iterator[list[str]]:
    """Subjects of the blockers of this very process."""
    pidfd = pidfd_open(os.getpid())
    try:
        yield [one.subject for one in untold_sockets.refuse(os.getpid(), pidfd, READER)]
    finally:
        os.close(pidfd)


def grouped() -> socket.socket:
    live = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    live.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    live.bind(("127.0.0.1", 0))
    return live


def attach_program(live: socket.socket) -> None:
    code = (ctypes.c_ulonglong * 1)(6)  # return 0
    program = (ctypes.c_ulonglong * 2)(1, ctypes.addressof(code))
    assert ctypes.CDLL(None).setsockopt(live.fileno(), 1, SO_ATTACH_REUSEPORT_CBPF, program, 16) == 0


@contextmanager
def room_until(descriptor: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_program_is_found_where_there_are_more_sockets_than_we_may_have() -> None:
    require_root()
    kept = [grouped() for _ in range(MANY)]
    attach_program(kept[-1])
    with room_until(kept[-1].fileno() + MANY // 2), refused_of_us() as found:
        assert found == [f"fd {kept[-1].fileno()}"]
    for one in kept:
        one.close()


def test_no_socket_is_held_while_it_is_learnt_where_the_kernel_keeps_things(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the process closes then has to end at once."""
    require_root()
    kept = grouped()
    link = os.readlink(f"/proc/self/fd/{kept.fileno()}")
    held = list[int]()

    @contextmanager
    def counted(*wanted: tuple[str, tuple[str, ...]]) -> Iterator[KernelMemory]:
        links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
        held.append(links.count(link))
        with open_kernel_memory(*wanted) as memory:
            yield memory

    monkeypatch.setattr(socket_secrets, "open_kernel_memory", counted)
    with kept, refused_of_us() as found:
        assert (held, found) == ([1], [])


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")
