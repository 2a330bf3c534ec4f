"""SshSession: one SSH connection to the other host, and the remote processes over it. It does not know the messages."""

import os
import shlex
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncssh

from migrate.errors import ConnectionLost, TransportError
from migrate.transport.caller import Caller, as_caller, find_caller
from migrate.transport.connect import SshOptions, connect
from migrate.transport.destination import Destination
from migrate.transport.process import OnStderr, RemoteProcess
from migrate.transport.relay import PageStream

__all__ = ["PageStream", "RemoteProcess", "SshOptions", "SshSession", "open_session"]

WINDOW_BYTES = 2 << 20
# Beyond what OpenSSH's window of 2 MiB takes at once. Measured: larger is no faster, and delays the end of file.
SEND_BUFFER_BYTES = 512 << 10
# The remote side's own words, untranslated: explain_exit reads sudo's. Where the server takes it (AcceptEnv LC_*).
ENVIRONMENT = {"LC_MESSAGES": "C"}


class SshSession:
    """An open connection. `notices` say whose keys and agent are in use, for the user to see."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, destination: Destination, options: SshOptions,
        notices: Sequence[str],
    ) -> None:  # fmt: skip
        self.destination = destination
        self.notices = list(notices)
        self._connection = connection
        self._prefix = options.remote_command
        self._children: list[PageStream | RemoteProcess] = []

    @property
    def peer_address(self) -> str:
        """IP address of the other host; its name as given when a jump host or a proxy connects us."""
        found = self._connection.get_extra_info("peername")
        return (str(found[0]) if found else "") or self.destination.host

    @property
    def is_closed(self) -> bool:
        """True when the connection is gone."""
        return bool(self._connection.is_closed())

    async def start(self, command: Sequence[str], *, on_stderr: OnStderr | None = None) -> RemoteProcess:
        """Start `REMOTE_COMMAND command…` there, without a terminal."""
        whole = [*self._prefix, *command]
        try:
            process = await self._connection.create_process(
                shlex.join(whole), encoding=None, env=ENVIRONMENT, window=WINDOW_BYTES, request_pty=False
            )
        except asyncssh.ChannelOpenError as error:
            raise self._no_channel(error) from error
        except (asyncssh.Error, OSError) as error:
            raise ConnectionLost(f"{self.destination.host}: connection lost: {error}") from error
        process.channel.set_write_buffer_limits(high=SEND_BUFFER_BYTES)
        started = RemoteProcess(process, self.destination.host, whole, on_stderr)
        self._children.append(started)
        return started

    async def open_page_stream(
        self, command: Sequence[str], source_fd: int, *, on_stderr: OnStderr | None = None
    ) -> PageStream:
        """Start `command` there and send it all that comes out of `source_fd`, a pipe or socket end (taken over)."""
        try:
            process = await self.start(command, on_stderr=on_stderr)
        except BaseException:
            os.close(source_fd)
            raise
        stream = PageStream(process, source_fd)
        self._children.append(stream)
        return stream

    async def close(self) -> None:
        """End everything over this connection; the connection itself is open_session's."""
        for child in reversed(self._children):
            await child.close()
        self._children.clear()

    def _no_channel(self, error: asyncssh.ChannelOpenError) -> TransportError:
        if "closed" in error.reason.lower():
            return ConnectionLost(f"{self.destination.host}: connection lost: {error.reason}")
        return TransportError(
            f"{self.destination.host}: cannot open one more channel: {error.reason}",
            hint="MaxSessions in sshd_config there limits a connection's channels (default 10): use fewer --streams",
        )


@asynccontextmanager
async def open_session(
    destination: Destination, options: SshOptions | None = None, *, caller: Caller | None = None
) -> AsyncIterator[SshSession]:
    """Connect and log in. Every reason why that fails is its own subclass of TransportError, or a UsageError."""
    options = options or SshOptions()
    caller = caller or find_caller(os.environ, euid=os.geteuid())
    async with AsyncExitStack() as stack:
        with as_caller(caller):
            connection = await connect(destination, options, caller, stack)
        session = SshSession(connection, destination, options, caller.notices)
        stack.push_async_callback(session.close)
        yield session
