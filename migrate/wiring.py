"""The live parts put together: SSH, preflight, keepers, journals. What the command line calls; decides nothing."""

import asyncio
import logging
import os
import secrets
import shlex
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Literal, cast

from core import PreflightOptions, TrackChoice
from migrate import dest
from migrate.engine import Channel, Keeper, Line, Peer, spawn_source_keeper
from migrate.errors import ConnectionLost
from migrate.journal import Entry, Journal, read_start_time
from migrate.keeper.parked import Parked
from migrate.keeper.process import DEFAULT_ENGINE, load_engine
from migrate.preflight import ThisHost, target_to_facts
from migrate.resolve import Means
from migrate.transport import session
from migrate.transport.channel import FrameChannel
from migrate.transport.destination import parse_destination
from migrate.world import MigrationRequest, PageStream, SourceView, World

log = logging.getLogger(__name__)
STDIN_FD, STDOUT_FD = 0, 1


def live_world(request: MigrationRequest) -> World:
    """The world of a real migration."""
    journal = Journal.default()

    async def spawn_keeper(migration_id: str, streams: Sequence[PageStream], lock_fd: int) -> Keeper:
        fds = [stream.fd for stream in streams]
        return await spawn_source_keeper(
            migration_id, journal, page_streams=fds, lock_fd=lock_fd, engine=DEFAULT_ENGINE
        )

    return World(
        journal=journal,
        far=SshFar(request.destination, request.route),
        examine=examine,
        start_time=read_start_time,
        spawn_keeper=spawn_keeper,
        parked=live_parked(),
        sleep=asyncio.sleep,
        now=time.monotonic,
        new_id=lambda: secrets.token_hex(4),
        host_name=socket.gethostname(),
    )


@asynccontextmanager
async def live_means(entry: Entry) -> AsyncIterator[Means]:
    """What `migrate resolve` needs for the migration of `entry`."""
    far = SshFar(entry.peer, entry.route)
    try:
        yield Means(Journal.default(), far, live_parked(), asyncio.sleep)
    finally:
        await far.close()


def serve_stdio(attach: str | None) -> None:
    """`migrate dest` on our standard input and output, or `migrate dest --attach ID`."""
    preflight = ThisHost()
    host = dest.Host(preflight.facts, preflight.judge, live_parked(), DEFAULT_ENGINE)
    asyncio.run(_serve_stdio(host, attach))


def serve_pages(migration_id: str, stream_fd: int) -> None:
    """`migrate dest --pages ID`: `stream_fd` becomes a page stream of the keeper."""
    dest.serve_pages(migration_id, stream_fd, Journal.default())


async def _serve_stdio(host: dest.Host, attach: str | None) -> None:
    channel = await _stdio_channel()
    if attach is None:
        await dest.serve_stdio(channel, host)
    else:
        await dest.serve_attach(channel, host, attach)


async def _stdio_channel() -> Channel:
    """Frames over our own standard input and output, which are pipes or sockets of sshd's."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(STDIN_FD, "rb", closefd=False))
    transport, protocol = await loop.connect_write_pipe(
        asyncio.streams.FlowControlMixin, os.fdopen(STDOUT_FD, "wb", closefd=False)
    )
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    return FrameChannel(reader, writer, "coordinator")


def examine(request: MigrationRequest) -> SourceView:
    """Preflight's half here."""
    options = PreflightOptions(
        tcp=cast(Literal["refuse", "close"], request.tcp),
        shell_job=request.shell_job,
        files=request.files,
        pid_mode=cast(Literal["keep", "namespace"], request.pid_mode),
        assume_shared=request.assume_shared,
        action_scripts=request.action_scripts,
        track=None if request.track == "auto" else cast(TrackChoice, request.track),
    )
    findings = ThisHost().examine(request.pid, options)
    return SourceView(target_to_facts(findings.record), findings.blockers, findings.notices)


def live_parked() -> Parked:
    """The acts upon trees whose keeper is gone."""
    engine = load_engine(DEFAULT_ENGINE)
    return Parked(engine.resume_parked, engine.kill_parked, engine.find_parked)


class SshFar:
    """The way to a destination: one SSH connection for the migration, a fresh one for each attach."""

    def __init__(self, destination: str, route: tuple[tuple[str, str], ...]) -> None:
        self._destination = parse_destination(destination)
        self._options = ssh_options(route)
        self._stack = AsyncExitStack()
        self._session: session.SshSession | None = None

    @property
    def notices(self) -> Sequence[str]:
        """Whose keys and agent are used; empty before `serve`."""
        return self._session.notices if self._session else ()

    async def serve(self) -> Peer:
        """See Far."""
        self._session = await self._stack.enter_async_context(session.open_session(self._destination, self._options))
        process = await self._session.start(["dest"], on_stderr=self._say)
        return Peer(Line(process.frames, process.close), str(self._destination), self._destination.host)

    async def attach(self, migration_id: str) -> Peer:
        """See Far."""
        stack = AsyncExitStack()
        try:
            fresh = await stack.enter_async_context(session.open_session(self._destination, self._options))
            process = await fresh.start(["dest", "--attach", migration_id], on_stderr=self._say)
        except BaseException:
            await stack.aclose()
            raise
        return Peer(Line(process.frames, stack.aclose), str(self._destination), self._destination.host)

    async def open_page_stream(self, migration_id: str) -> "SshPageStream":
        """See Far."""
        if self._session is None:
            raise ConnectionLost("page stream: cannot be opened: there is no connection")
        read_fd, write_fd = os.pipe()
        try:
            relay = await self._session.open_page_stream(
                ["dest", "--pages", migration_id], read_fd, on_stderr=self._say
            )
        except BaseException:
            os.close(write_fd)
            raise
        return SshPageStream(write_fd, relay)

    async def close(self) -> None:
        """See Far."""
        await self._stack.aclose()

    def _say(self, line: str) -> None:
        log.info("%s: %s", self._destination.host, line)


class SshPageStream:
    """The local end of a page stream inside SSH."""

    def __init__(self, fd: int, relay: session.PageStream) -> None:
        self._fd = fd
        self._relay = relay

    @property
    def fd(self) -> int:
        """See PageStream."""
        return self._fd

    def close_local(self) -> None:
        """See PageStream."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    async def close(self) -> None:
        """See PageStream."""
        self.close_local()
        await self._relay.close()


def ssh_options(route: tuple[tuple[str, str], ...]) -> session.SshOptions:
    """The journal's route as options; what it does not name is ssh's default."""
    known_hosts = [Path(value) for name, value in route if name == "known_hosts"]
    commands = [shlex.split(value) for name, value in route if name == "remote_command"]
    return session.SshOptions(
        identity_files=tuple(Path(value) for name, value in route if name == "identity_file"),
        known_hosts=known_hosts[0] if known_hosts else None,
        remote_command=tuple(commands[0]) if commands else ("migrate",),
    )
