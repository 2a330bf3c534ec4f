"""FrameChannel: messages over any pair of byte streams of asyncio or asyncssh. It does not know what is at the end."""

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import asyncssh

from migrate.errors import ConnectionLost, TransportError
from migrate.transport.frames import PREFACE, FrameDecoder, encode_length

_READ_AT_ONCE = 1 << 20
_JOINED_BYTES = 1 << 16  # below this one write of a joined copy is cheaper than two writes
_BROKEN = (ConnectionError, EOFError, asyncssh.Error)

# Why a stream ended; None for an ordinary end between two messages.
ExplainEnd = Callable[[], Awaitable[TransportError | None]]


class ByteReader(Protocol):
    """asyncio.StreamReader or asyncssh.SSHReader[bytes]."""

    async def read(self, n: int = -1, /) -> bytes:
        """Up to `n` bytes as soon as there are any; b"" at the end."""
        ...


class ByteWriter(Protocol):
    """asyncio.StreamWriter or asyncssh.SSHWriter[bytes]."""

    def write(self, data: bytes, /) -> None:
        """Queue `data`."""
        ...

    async def drain(self) -> None:
        """Wait until the queue is short enough."""
        ...


class FrameChannel:
    """Messages both ways; one task may send while another receives.

    `explain_end`, when given, is asked at every end and every break of the streams and may name a better error.
    """

    def __init__(
        self, reader: ByteReader, writer: ByteWriter, peer: str, *, explain_end: ExplainEnd | None = None
    ) -> None:
        self.peer = peer
        self._reader = reader
        self._writer = writer
        self._explain_end = explain_end
        self._decoder = FrameDecoder(peer)
        self._waiting: deque[bytes] = deque()
        self._preface_sent = False
        self.received_any = False  # at least one whole message came

    async def send(self, message: bytes) -> None:
        """Send one message; returns when the stream has taken it."""
        header = encode_length(message)
        if not self._preface_sent:
            header = PREFACE + header
            self._preface_sent = True
        try:
            if len(message) <= _JOINED_BYTES:
                self._writer.write(header + message)
            else:
                self._writer.write(header)
                self._writer.write(message)
            await self._writer.drain()
        except _BROKEN as error:
            raise await self._broken(error) from error

    async def recv(self) -> bytes | None:
        """The next message, or None when the other end has closed in good order."""
        while not self._waiting:
            try:
                received = await self._reader.read(_READ_AT_ONCE)
            except _BROKEN as error:
                raise await self._broken(error) from error
            if not received:
                await self._check_end()
                return None
            self._waiting.extend(self._decoder.feed(received))
            self.received_any = self.received_any or bool(self._waiting)
        return self._waiting.popleft()

    async def _check_end(self) -> None:
        better = await self._explain_end() if self._explain_end else None
        if better is not None:
            raise better
        self._decoder.end()

    async def _broken(self, error: Exception) -> TransportError:
        better = await self._explain_end() if self._explain_end else None
        return better or ConnectionLost(f"{self.peer}: connection lost: {error or type(error).__name__}")


async def open_pipe_channel(read_fd: int, write_fd: int, peer: str) -> FrameChannel:
    """A channel over two descriptors (stdin and stdout of `migrate dest`); duplicates them, and makes them
    non-blocking, so nothing else may print there."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_READ_AT_ONCE)
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(read_fd), "rb", buffering=0)
    )
    # StreamReaderProtocol, because it has the flow control that StreamWriter.drain() needs.
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(os.dup(write_fd), "wb", buffering=0)
    )
    return FrameChannel(reader, asyncio.StreamWriter(transport, protocol, None, loop), peer)
