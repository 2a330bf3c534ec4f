"""The asynchronous side's way to speak with keepers and the other host: one request, one answer; and how keepers start.

Owns the conversation's order, not the bytes (the transport's) and not what is said (source.py, dest.py).
"""

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from google.protobuf.message import Message as Body

from migrate.errors import ConnectionLost, KeeperLost, ProtocolError
from migrate.journal import STATE_DIR_VARIABLE, Journal, Role
from migrate.messages import decode, encode, error_of
from migrate.pb import control_pb2 as pb
from migrate.transport.channel import FrameChannel

A = TypeVar("A", bound=Body)
ProgressHeard = Callable[[pb.Progress], None]

KEEPER_MODULE = "migrate.keeper.process"
LET_GO_S = 5.0


class Channel(Protocol):
    """Messages in both directions, in order: transport.channel's FrameChannel, and the tests' own."""

    async def send(self, message: bytes) -> None:
        """One message; ConnectionLost or OSError when nobody is there."""
        ...

    async def recv(self) -> bytes | None:
        """The next message; None when the other end has closed in good order."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """A channel, and how to hang up (again is no error)."""

    channel: Channel
    close: Callable[[], Awaitable[None]]


async def line_over(connection: socket.socket, peer: str) -> Line:
    """A line over a connected UNIX socket, which it owns from now on."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)

    async def close() -> None:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    return Line(FrameChannel(reader, writer, peer), close)


class Peer:
    """One end of a strict request/answer conversation. A request that was given up (timeout, Ctrl-C) still owes its
    answer: the next request reads past it. `host`: where the other end is, "" for here; its failures name it."""

    def __init__(self, line: Line, name: str, host: str = "") -> None:
        self.name = name
        self.host = host
        self._line = line
        self._owed = 0
        self._receiving: asyncio.Future[bytes | None] | None = None

    async def ask(
        self,
        request: Body,
        answer: type[A],
        *,
        on_progress: ProgressHeard | None = None,
        timeout_s: float | None = None,
    ) -> A:
        """The answer to `request`; raises what the other side failed with, ConnectionLost when it is gone."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._ask(request, answer, on_progress)
        except TimeoutError as error:
            raise ConnectionLost(f"{self.name}: silent for {timeout_s:g} s after {type(request).__name__}") from error

    async def _ask(self, request: Body, answer: type[A], on_progress: ProgressHeard | None) -> A:
        stale, message = self._owed, encode(request)
        self._owed += 1  # whoever gives up while it waits for room has sent it all the same
        try:
            await self._line.channel.send(message)
        except OSError as error:
            raise ConnectionLost(f"{self.name}: connection lost: {error}") from error
        while True:
            body = await self._receive()
            if isinstance(body, pb.Progress):
                if not stale and on_progress:
                    on_progress(body)
                continue
            self._owed -= 1
            if stale:
                stale -= 1
                continue
            if isinstance(body, pb.Failure):
                raise error_of(body, self.host)
            if not isinstance(body, answer):
                raise ProtocolError(f"{self.name}: answered {type(request).__name__} with {type(body).__name__}")
            return body

    async def _receive(self) -> Body:
        """The next message. The reading goes on when the asker is cancelled: half a frame would garble all after it."""
        if self._receiving is None:
            self._receiving = asyncio.ensure_future(self._line.channel.recv())
        try:
            frame = await asyncio.shield(self._receiving)
        except OSError as error:
            raise ConnectionLost(f"{self.name}: connection lost: {error}") from error
        finally:
            if self._receiving.done():
                self._receiving = None
        if frame is None:
            raise ConnectionLost(f"{self.name}: hung up")
        return decode(frame)

    async def close(self) -> None:
        """Hang up."""
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        await self._line.close()


class Keeper(Protocol):
    """The source's keeper as the coordinator sees it."""

    async def ask(
        self,
        request: Body,
        answer: type[A],
        *,
        on_progress: ProgressHeard | None = None,
        timeout_s: float | None = None,
    ) -> A:
        """As Peer.ask."""
        ...

    async def stop(self) -> None:
        """Hang up and see it gone, killing it if need be: then its journal is final. Again is no error."""
        ...


class KeeperProcess:
    """A source keeper in a child process."""

    def __init__(self, peer: Peer, process: asyncio.subprocess.Process) -> None:
        self._peer = peer
        self._process = process

    async def ask(
        self,
        request: Body,
        answer: type[A],
        *,
        on_progress: ProgressHeard | None = None,
        timeout_s: float | None = None,
    ) -> A:
        """As Peer.ask; KeeperLost when the process is gone."""
        try:
            return await self._peer.ask(request, answer, on_progress=on_progress, timeout_s=timeout_s)
        except ConnectionLost as error:
            raise KeeperLost(f"keeper {self._process.pid}: {error.message}", hint="see its log file") from error

    async def stop(self) -> None:
        """The end of its socket tells it to let go; if it does not in LET_GO_S, it is killed."""
        await self._peer.close()
        try:
            async with asyncio.timeout(LET_GO_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def spawn_source_keeper(
    migration_id: str, journal: Journal, *, page_streams: Sequence[int], lock_fd: int, engine: str
) -> KeeperProcess:
    """A keeper as our child on a socket pair, in a session of its own: Ctrl-C at the terminal is for us alone. It
    inherits `page_streams` and the target's lock."""
    ours, theirs = socket.socketpair()
    with theirs:
        arguments = ["source", "--id", migration_id, "--engine", engine, "--control-fd", str(theirs.fileno())]
        for fd in page_streams:
            arguments += ["--pages-fd", str(fd)]
        process = await _spawn(arguments, journal, migration_id, Role.SOURCE, (theirs.fileno(), lock_fd, *page_streams))
    return KeeperProcess(Peer(await line_over(ours, "source keeper"), "source keeper"), process)


async def spawn_destination_keeper(migration_id: str, journal: Journal, *, engine: str) -> Path:
    """A keeper that outlives us; returns the socket it listens on."""
    journal.make_directory("run")
    arguments = ["destination", "--id", migration_id, "--engine", engine]
    process = await _spawn(arguments, journal, migration_id, Role.DESTINATION, ())
    # The process we started listens, forks the daemon and ends.
    if await process.wait() != 0:
        raise KeeperLost(
            f"keeper of migration {migration_id}: did not start",
            hint=f"see {journal.log_path(migration_id, Role.DESTINATION)} on the destination",
        )
    return journal.socket_path(migration_id)


async def _spawn(
    arguments: list[str], journal: Journal, migration_id: str, role: Role, fds: tuple[int, ...]
) -> asyncio.subprocess.Process:
    journal.make_directory("log")
    environment = {**os.environ, STATE_DIR_VARIABLE: str(journal.state_dir)}
    with open(journal.log_path(migration_id, role), "ab", opener=_private) as log_file:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", KEEPER_MODULE, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=log_file, stderr=log_file,
            pass_fds=fds, start_new_session=True, env=environment,
        )  # fmt: skip


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
