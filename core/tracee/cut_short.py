"""Takes back what a stop does to the socket of a recvmmsg(2) that has some of its messages already.

Such a call returns those, and the kernel keeps its own -ERESTARTSYS as the socket's error: the next call there would
end with errno 512, or a dump fail to read its queue. Source: do_recvmmsg in net/socket.c.
"""

import os
import select
import socket
from contextlib import ExitStack, suppress
from typing import Final

from core.kernel.calls import SYSCALLS, pidfd_getfd, pidfd_open
from core.kernel.pipe_content import polls
from core.kernel.threads import Registers
from core.plan.socket_options import borrowed_socket
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
    with suppress(OSError), ExitStack() as stack:
        stack.callback(os.close, pidfd := pidfd_open(pid))
        stack.callback(os.close, fd := pidfd_getfd(pidfd, registers.di & 0xFFFFFFFF))
        if os.get_blocking(fd) and polls(fd, select.POLLERR):
            with borrowed_socket(fd) as live:
                live.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
