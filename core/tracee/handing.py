"""Hands descriptors of ours to a stem, whatever PID namespace it is in."""

import os
import socket
from collections.abc import Sequence
from typing import Final

from core.errors import TraceeError
from core.kernel.calls import pidfd_getfd, pidfd_open
from core.plan.encode import Steps
from core.plan.ops import Out, Pointers, Syscall, Yield
from core.tracee.borrow import Results
from core.tracee.stem import Stem

AT_A_TIME: Final = 200  # SCM_MAX_FD is 253
CONTROL_SIZE: Final = 16 + 8 * AT_A_TIME
STREAM: Final = socket.SOCK_STREAM | socket.SOCK_CLOEXEC
MSG_CMSG_CLOEXEC: Final = 0x40000000


def hand_over(stem: Stem, fds: Sequence[int]) -> list[int]:
    """Duplicates of our `fds` in the stem, close-on-exec: their numbers there."""
    return [number for first in range(0, len(fds), AT_A_TIME) for number in _hand(stem, fds[first : first + AT_A_TIME])]


def _hand(stem: Stem, fds: Sequence[int]) -> list[int]:
    """By a message over a socket pair made in the stem: the kernel takes the lowest free numbers, in order."""
    ends = [stem.fds.take(), stem.fds.take()]
    numbers = [stem.fds.take() for _ in fds]
    why = "descriptors of shared memory"
    header = Pointers((0, 0, Pointers((bytes(8), 1)), 1, bytes(CONTROL_SIZE), CONTROL_SIZE, 0))
    received = Syscall("recvmsg", (ends[0], header, MSG_CMSG_CLOEXEC), why)

    def send(results: Results) -> None:
        pidfd = pidfd_open(stem.pid)
        try:
            with socket.socket(fileno=pidfd_getfd(pidfd, ends[1])) as end:
                socket.send_fds(end, [b"\0"], list(fds))
        finally:
            os.close(pidfd)

    program: Steps = (
        Syscall("socketpair", (socket.AF_UNIX, STREAM, 0, Out(8)), why), Yield(why), received,
        *(Syscall("close", (end,), why) for end in ends),
    )  # fmt: skip
    if stem.borrow.run(stem.leader, program, at_yield=send).value(received) != 1:
        raise TraceeError(stem.pid, "did not get the descriptors of its shared memory")
    for end in ends:
        stem.fds.release(end)
    return numbers
