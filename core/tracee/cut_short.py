"""Takes back what a stop does to the socket of a recvmmsg(2) that has some of its messages already.

Such a call returns those, and the kernel keeps its own -ERESTARTSYS as the socket's error: the next call there would
end with errno 512, or a dump fail to read its queue. Source: do_recvmmsg in net/socket.c.
"""

import os
import select
import socket
from contextlib import suppress
from typing import Final

from core.kernel.calls import SYSCALLS, pidfd_getfd, pidfd_open
from core.kernel.threads import Registers
from core.tracee.sigframe import signed

MSG_WAITFORONE: Final = 0x10000


def is_cut_short(registers: Registers) -> bool:
    """A recvmmsg(2) that waited for more than it returns."""
    return (
        registers.orig_ax == SYSCALLS["recvmmsg"]
        and 0 < signed(registers.ax) < registers.dx & 0xFFFFFFFF
        and not registers.r10 & (socket.MSG_DONTWAIT | MSG_WAITFORONE)
    )


def forget_error(pid: int, registers: Registers) -> None:
    """Take the error from the socket of such a call. Also a real one, should it have ended the call at this moment."""
    with suppress(OSError):
        pidfd = pidfd_open(pid)
        try:
            live = socket.socket(fileno=pidfd_getfd(pidfd, registers.di & 0xFFFFFFFF))
        finally:
            os.close(pidfd)
        with live:
            poll = select.poll()
            poll.register(live, 0)
            if os.get_blocking(live.fileno()) and any(found & select.POLLERR for _, found in poll.poll(0)):
                live.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
