"""A person at the terminal of a moved process: their own one is raw meanwhile; Ctrl-\\ leaves it."""

import os
import select
import signal
import socket
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Final

from migrate.terminal.frames import PAYLOAD_AT_MOST, WINDOW, Kind, frame

LEAVE: Final = b"\x1c"  # Ctrl-\
PIECE: Final = 1 << 16
# Whatever the program made of the screen: the first buffer, a cursor, no colour.
PLAIN: Final = b"\x1b[?1049l\x1b[?25h\x1b[0m\r\n"


class Left(Enum):
    """How a view ended."""

    DETACHED = "detached"
    ENDED = "ended"


def view(path: Path, stdin: int, stdout: int) -> Left:
    """Show the terminal at `path` until it ends or the person leaves. OSError: nobody keeps it."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(str(path))
        with _raw(stdin), _resizes() as resized:
            try:
                return _follow(server, stdin, stdout, resized)
            finally:
                _write_all(stdout, PLAIN)


def _follow(server: socket.socket, stdin: int, stdout: int, resized: int) -> Left:
    window = b""
    poll = select.poll()
    for fd in (server.fileno(), stdin, resized):
        poll.register(fd, select.POLLIN)
    while True:
        if (now := _window(stdout)) != window:  # keys that were typed after a resize must not come before it
            window = now
            server.sendall(window)
        ready = {fd for fd, _ in poll.poll()}
        if server.fileno() in ready:
            output = _received(server)
            if not output:
                return Left.ENDED
            _write_all(stdout, output)
        if resized in ready:
            os.read(resized, PIECE)
        if stdin in ready and _window(stdout) == window:
            keys, leave, _ = os.read(stdin, PAYLOAD_AT_MOST).partition(LEAVE)
            if keys:
                server.sendall(frame(Kind.INPUT, keys))
            if leave or not keys:
                return Left.DETACHED


def _received(server: socket.socket) -> bytes:
    try:
        return server.recv(PIECE)
    except ConnectionError:
        return b""


def _window(fd: int) -> bytes:
    return frame(Kind.WINDOW, WINDOW.pack(*termios.tcgetwinsize(fd)))


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


@contextmanager
def _raw(fd: int) -> Iterator[None]:
    before = termios.tcgetattr(fd)
    tty.setraw(fd, termios.TCSADRAIN)  # what was typed ahead is not lost
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextmanager
def _resizes() -> Iterator[int]:
    """Readable when the person's window has another size."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.signal(signal.SIGWINCH, lambda *_: None)
    woken = signal.set_wakeup_fd(writing)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGWINCH, before)
        os.close(reading)
        os.close(writing)
