"""What waits in a pipe or a FIFO, copied by tee(2): nothing is consumed."""

import fcntl
import os
import select
import struct
import termios
from dataclasses import dataclass
from typing import Final

from core.kernel.calls import syscall

SPLICE_F_NONBLOCK: Final = 2


@dataclass(frozen=True, slots=True)
class Waiting:
    """`pieces` back to back are the content. Each is what one read(2) takes at most: packets are kept apart."""

    pieces: tuple[bytes, ...]
    size: int  # how much the pipe can hold


def waiting_bytes(fd: int) -> int:
    """How many bytes wait to be read."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    return int(count)


def polls(fd: int, event: int) -> bool:
    """What poll(2) says now. When the other end of a pipe is gone: POLLHUP for a reader, POLLERR for a writer."""
    poller = select.poll()
    poller.register(fd, event)
    return any(events & event for _, events in poller.poll(0))


def copy_waiting(fd: int) -> Waiting:
    """By a descriptor that may read. OSError, also when the copy is not all of it."""
    size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    waiting = waiting_bytes(fd)
    pieces = _copy(fd, size) if waiting else ()
    if sum(map(len, pieces)) != waiting:
        raise OSError(0, f"{waiting} bytes wait, {sum(map(len, pieces))} could be copied")
    return Waiting(pieces, size)


def _copy(fd: int, size: int) -> tuple[bytes, ...]:
    """tee(2) shares page by page, so a pipe of the same size takes everything at once."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, size)
        left = syscall("tee", fd, writing, size, SPLICE_F_NONBLOCK)
        pieces = []
        while left:
            pieces.append(os.read(reading, left))
            left -= len(pieces[-1])
        return tuple(pieces)
    finally:
        os.close(reading)
        os.close(writing)
