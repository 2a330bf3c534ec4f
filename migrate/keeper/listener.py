"""The destination keeper's socket: one control connection at a time, and page streams handed over by SCM_RIGHTS.

A new control connection replaces the old one, with whatever that had sent unread. Loss of control before Ready removes
the copy after a grace; after Ready it changes nothing.
"""

import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from core.errors import MigrateError
from migrate.keeper.destination import DestinationKeeper
from migrate.machine import CopyState
from migrate.messages import decode, encode, failure_of

log = logging.getLogger(__name__)

CONTROL = b"control\n"
PAGES = b"pages  \n"
GREETING_BYTES = len(CONTROL)  # of both: one byte more could be the first of a frame that came right behind
GREETING_LIMIT_S = 5.0
GRACE_S = 10.0


class FrameSocket(Protocol):
    """A blocking channel of frames over a socket."""

    def send(self, message: bytes) -> None:
        """One frame."""
        ...

    def recv(self) -> bytes | None:
        """The next frame; None at the end."""
        ...


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`; its directory is for the owner alone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    listener.listen(16)
    return listener


def connect(path: str, greeting: bytes, fds: tuple[int, ...] = ()) -> socket.socket:
    """A connection to the keeper at `path`, greeted; OSError when nobody listens."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
        socket.send_fds(connection, [greeting], list(fds))
    except OSError:
        connection.close()
        raise
    return connection


class Listener:
    """Serves one DestinationKeeper until its copy runs, or is removed."""

    def __init__(
        self,
        keeper: DestinationKeeper,
        listener: socket.socket,
        frames_of: Callable[[socket.socket], FrameSocket],
        *,
        grace_s: float = GRACE_S,
    ) -> None:
        self._keeper = keeper
        self._listener = listener
        self._frames_of = frames_of
        self._grace_s = grace_s
        self._control: tuple[socket.socket, FrameSocket] | None = None
        self._pages: list[socket.socket] = []
        self._alone_since = time.monotonic()

    def serve(self) -> None:
        """Returns when there is nothing left to keep."""
        while not self._is_over():
            self._turn()
        self._close_control()
        self._close_pages()
        self._keeper.close()

    def _is_over(self) -> bool:
        """Aborted; or resumed, and nobody is listening to us any more (the journal answers for us from then on)."""
        if self._keeper.finished:
            return True
        return self._control is None and self._keeper.state is CopyState.RESUMED

    def _turn(self) -> None:
        if self._keeper.landing and self._control:
            answer = self._keeper.land(tuple(self._wake_fds()))
            if answer is not None:
                self._send(encode(answer))
        ready = self._poll()
        if self._listener.fileno() in ready:
            self._accept()
        elif self._control and self._control[0].fileno() in ready:
            self._take_request()
        if self._pages and not self._keeper.wants_pages:
            self._close_pages()
        self._check_grace()

    def _wake_fds(self) -> Iterator[int]:
        yield self._listener.fileno()
        if self._control:
            yield self._control[0].fileno()

    def _poll(self) -> set[int]:
        poll = select.poll()
        for fd in self._wake_fds():
            poll.register(fd, select.POLLIN)
        if self._keeper.landing and self._control:
            timeout_ms: int | None = 0
        elif self._control or self._stays():
            timeout_ms = None
        else:
            timeout_ms = max(0, int(1000 * (self._alone_since + self._grace_s - time.monotonic())) + 1)
        return {fd for fd, _ in poll.poll(timeout_ms)}

    def _stays(self) -> bool:
        return self._keeper.state not in (None, CopyState.PREPARING, CopyState.ABORTING)

    def _check_grace(self) -> None:
        if self._control or self._stays() or time.monotonic() < self._alone_since + self._grace_s:
            return
        try:
            self._keeper.give_up(f"no control connection for {self._grace_s:g} s")
        except (MigrateError, OSError) as error:
            log.error("cannot remove the copy: %s", error)
        self._keeper.finished = True

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(GREETING_LIMIT_S)
        try:
            greeting, fds, _, _ = socket.recv_fds(connection, GREETING_BYTES, 4)
        except OSError as error:
            log.warning("a connection said nothing: %s", error)
            connection.close()
            return
        connection.settimeout(None)
        if greeting == CONTROL and not fds:
            self._close_control()
            self._control = connection, self._frames_of(connection)
        elif greeting == PAGES and len(fds) == 1:
            self._keeper.add_stream(fds[0])
            self._pages.append(connection)
        else:
            log.warning("a connection greeted with %r and %d descriptors", greeting, len(fds))
            for fd in fds:
                os.close(fd)
            connection.close()

    def _take_request(self) -> None:
        assert self._control is not None
        try:
            frame = self._control[1].recv()
        except (OSError, MigrateError) as error:
            log.warning("control: %s", error)
            frame = None
        if frame is None:
            self._close_control()
            return
        try:
            answer = self._keeper.answer(decode(frame))
        except MigrateError as error:
            answer = failure_of(error)
        if answer is not None:
            self._send(encode(answer))

    def _send(self, frame: bytes) -> None:
        if self._control is None:
            return
        try:
            self._control[1].send(frame)
        except (OSError, MigrateError) as error:
            log.warning("control: the answer was not heard: %s", error)
            self._close_control()

    def _close_control(self) -> None:
        if self._control:
            self._control[0].close()
            self._control = None
            self._alone_since = time.monotonic()

    def _close_pages(self) -> None:
        """`migrate dest --pages` waits for this end of file."""
        while self._pages:
            self._pages.pop().close()
