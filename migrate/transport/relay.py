"""PageStream: bulk bytes from a local descriptor into a remote process's stdin. It never looks at the bytes."""

import asyncio
import contextlib
import fcntl
import os
import stat

import asyncssh

from migrate.errors import ConnectionLost, TransportError
from migrate.transport.process import RemoteProcess

READ_AT_ONCE = 256 << 10
PIPE_BYTES = 1 << 20


class PageStream:
    """A remote process and the relay that feeds it; ends when either end does. Owns the local descriptor."""

    def __init__(self, process: RemoteProcess, source_fd: int) -> None:
        self.process = process
        self._source_fd = source_fd
        self._moved = 0
        prepare_source(source_fd)
        self._relay = asyncio.create_task(self._run(), name=f"page stream to {process.peer}")
        # Not a `finally` in _run: a task cancelled before its first step runs none.
        self._relay.add_done_callback(lambda _: os.close(source_fd))

    @property
    def bytes_moved(self) -> int:
        """Bytes that SSH has taken from the descriptor so far."""
        return self._moved

    async def wait(self) -> int:
        """Exit status of the remote process, once the stream has ended. ConnectionLost, RemoteProgramMissing, …"""
        return await asyncio.shield(self._relay)

    async def close(self) -> None:
        """End both, now; nothing is raised. For a stream whose result nobody wants any more."""
        self._relay.cancel()
        with contextlib.suppress(TransportError, asyncio.CancelledError):
            await self._relay
        await self.process.abandon()

    async def _run(self) -> int:
        """Relay until end of file; when the process ends first, the local writer gets EPIPE."""
        feeding = asyncio.create_task(self._feed())
        ending = asyncio.create_task(self.process.wait())
        try:
            await asyncio.wait((feeding, ending), return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()
            return await ending
        finally:
            for task in (feeding, ending):
                task.cancel()
            await asyncio.gather(feeding, ending, return_exceptions=True)

    async def _feed(self) -> None:
        writer = self.process.stdin
        try:
            while chunk := await read_some(self._source_fd):
                writer.write(chunk)
                await writer.drain()
                self._moved += len(chunk)
            writer.write_eof()
        except (ConnectionError, asyncssh.Error):
            return  # the process has ended or the connection is lost: process.wait() knows which


def prepare_source(fd: int) -> None:
    """Non-blocking, and a pipe large enough that the writer and we need not take turns."""
    os.set_blocking(fd, False)
    if stat.S_ISFIFO(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError):  # over the user's limit of pipe pages
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


async def read_some(fd: int) -> bytes:
    """What is there to read, up to READ_AT_ONCE; waits for the first byte; b"" at the end."""
    while True:
        try:
            return os.read(fd, READ_AT_ONCE)
        except BlockingIOError:
            await _wait_readable(fd)
        except ConnectionResetError as error:
            raise ConnectionLost("page stream: the local writer went away") from error


async def _wait_readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(fd)
