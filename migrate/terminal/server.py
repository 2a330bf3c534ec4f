"""`python -m migrate.terminal.server SOCKET`: keeps the master of a moved process's terminal while that process lives.

Reads all output, so that the process never waits for a viewer, and shows the end of it to whoever comes. The master and
a pidfd come by standard input, a socket; when that ends first there is nothing to keep.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import termios
from pathlib import Path
from typing import Final

from migrate.terminal.frames import HEAD, KEPT, PAYLOAD_AT_MOST, READY, WINDOW, Kind

REPLAYED: Final = 1 << 16  # bytes of output that a viewer is shown first
BEHIND_AT_MOST: Final = 1 << 20  # bytes that wait for a viewer, who is let go then
TIOCGPTPEER: Final = 0x5441
RETRY_S: Final = 0.01  # when the terminal takes no more input
FAREWELL_S: Final = 1.0


class TerminalServer:
    """One terminal and its viewers."""

    def __init__(self, master: int, pidfd: int) -> None:
        self._master, self._pidfd = master, pidfd
        os.set_blocking(master, False)
        # Ours: a master whose last slave is closed would hang up, though the process may open /dev/tty again.
        self._slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        self._replay = bytearray()
        self._viewers: set[asyncio.StreamWriter] = set()
        self._ended = asyncio.Event()

    async def run(self, listener: socket.socket) -> None:
        """Until the process has ended."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._master, self._forward)
        loop.add_reader(self._pidfd, self._ended.set)
        server = await asyncio.start_unix_server(self._view, sock=listener)
        await self._ended.wait()
        server.close()
        self._forward()
        for fd in (self._master, self._pidfd):
            loop.remove_reader(fd)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await asyncio.gather(*(viewer.drain() for viewer in self._viewers), return_exceptions=True)
        for viewer in list(self._viewers):
            viewer.close()
        for fd in (self._slave, self._master, self._pidfd):
            os.close(fd)

    def _forward(self) -> None:
        """What the terminal shows now, to everybody."""
        while True:
            try:
                output = os.read(self._master, REPLAYED)
            except BlockingIOError:
                return
            self._replay = (self._replay + output)[-REPLAYED:]
            for viewer in list(self._viewers):
                viewer.write(output)
                if viewer.transport.get_write_buffer_size() > BEHIND_AT_MOST:
                    viewer.transport.abort()

    async def _view(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(self._replay))
        self._viewers.add(writer)
        try:
            is_first = True
            while True:
                kind, length = HEAD.unpack(await reader.readexactly(HEAD.size))
                if length > PAYLOAD_AT_MOST or (kind == Kind.WINDOW and length != WINDOW.size):
                    return
                payload = await reader.readexactly(length)
                if kind == Kind.INPUT:
                    await self._type(payload)
                elif kind == Kind.WINDOW:
                    self._resize(payload, redraw=is_first)
                    is_first = False
        except (asyncio.IncompleteReadError, OSError):
            return  # it left
        finally:
            self._viewers.discard(writer)
            writer.close()

    async def _type(self, keys: bytes) -> None:
        while keys:
            try:
                keys = keys[os.write(self._master, keys) :]
            except BlockingIOError:
                await asyncio.sleep(RETRY_S)

    def _resize(self, payload: bytes, *, redraw: bool) -> None:
        """SIGWINCH goes to the foreground group when the size is another one: `redraw` makes it so."""
        rows, columns = WINDOW.unpack(payload)
        if redraw:
            termios.tcsetwinsize(self._master, (rows, (columns + 1) & 0xFFFF))
        termios.tcsetwinsize(self._master, (rows, columns))


def main() -> None:
    """Wait for a terminal, and keep it."""
    path = Path(sys.argv[1])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=0) as control, socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        try:
            listener.listen()
            control.sendall(READY)
            fds = socket.recv_fds(control, 1, 2)[1]
            if len(fds) != 2:
                return
            control.sendall(KEPT)
            control.close()
            asyncio.run(_keep(listener, *fds))
        finally:
            path.unlink(missing_ok=True)


async def _keep(listener: socket.socket, master: int, pidfd: int) -> None:
    await TerminalServer(master, pidfd).run(listener)


if __name__ == "__main__":
    main()
