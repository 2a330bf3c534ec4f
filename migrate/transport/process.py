"""RemoteProcess: a program on the other host, its streams and how it ended. How it was started is session's."""

import asyncio
import contextlib
import shlex
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

import asyncssh

from migrate.errors import ConnectionLost, TransportError
from migrate.transport.channel import FrameChannel
from migrate.transport.failures import explain_exit, explain_no_start

STDERR_LINES_KEPT = 200
STDERR_LINE_BYTES = 4096
END_WITHIN_S = 5.0

OnStderr = Callable[[str], None]


class RemoteProcess:
    """A program on the other host. Its stdout is `frames`, its stderr is kept line by line."""

    def __init__(
        self, process: asyncssh.SSHClientProcess[bytes], peer: str, command: Sequence[str], on_stderr: OnStderr | None
    ) -> None:
        self.peer = peer
        self.command = tuple(command)
        self.stdin = process.stdin
        self.frames = FrameChannel(process.stdout, process.stdin, peer, explain_end=self._explain_end)
        self._process = process
        self._on_stderr = on_stderr
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES_KEPT)
        self._reading_stderr = asyncio.create_task(self._read_stderr(), name=f"stderr of {peer}")

    @property
    def stderr_lines(self) -> tuple[str, ...]:
        """The last lines that it wrote to stderr."""
        return tuple(self._stderr)

    async def wait(self) -> int:
        """Exit status (128 + n for signal n). ConnectionLost when it cannot be known, our own error when the
        program could not be started at all."""
        status = await self._wait_status()
        if status != 0 and not self.frames.received_any:
            never_ran = explain_no_start(self.peer, self.command, status, self.stderr_lines)
            if never_ran is not None:
                raise never_ran
        return status

    async def lines(self) -> AsyncIterator[str]:
        """Its stdout line by line, instead of `frames`; a TransportError tells why it ended, unless it ended well."""
        async for line in self._process.stdout:
            yield line.decode("utf-8", "backslashreplace").rstrip("\n")
        status = await self._wait_status()
        if status != 0:
            raise explain_exit(self.peer, self.command, status, self.stderr_lines, False)

    async def text(self) -> list[str]:
        """All lines of its stdout, instead of `frames`, however it ends."""
        return (await self._process.stdout.read()).decode("utf-8", "backslashreplace").splitlines()

    async def end_input(self) -> None:
        """Close its stdin; it still may send."""
        with contextlib.suppress(ConnectionError):
            self.stdin.write_eof()

    async def close(self) -> None:
        """End it: its stdin closes, then the channel. sshd sends SIGHUP only with a terminal, so it must heed EOF."""
        await self.end_input()
        self._process.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_WITHIN_S):
                await self._process.wait_closed()
        self._reading_stderr.cancel()
        await asyncio.gather(self._reading_stderr, return_exceptions=True)

    async def abandon(self) -> None:
        """Drop the channel with all that is still to be sent over it, and wait for nothing."""
        self._process.channel.abort()
        self._reading_stderr.cancel()
        await asyncio.gather(self._reading_stderr, return_exceptions=True)

    async def _wait_status(self) -> int:
        await self._process.wait_closed()
        await asyncio.gather(self._reading_stderr, return_exceptions=True)
        status = self._process.returncode
        if status is None:
            raise self._lost()
        return status if status >= 0 else 128 - status

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(
            f"{self.peer}: connection lost while {shlex.join(self.command)} ran there",
            hint="is the host up? Nothing is known about the program there until it can be reached again",
        )

    async def _explain_end(self) -> TransportError | None:
        """Why stdout ended: None when the program ended well after it spoke, or only closed its stdout."""
        try:
            async with asyncio.timeout(END_WITHIN_S):
                status = await self._wait_status()
        except TimeoutError:
            return None
        except ConnectionLost as error:
            return error
        spoke = self.frames.received_any
        return (
            None if status == 0 and spoke else explain_exit(self.peer, self.command, status, self.stderr_lines, spoke)
        )

    async def _read_stderr(self) -> None:
        pending = b""
        with contextlib.suppress(ConnectionError, asyncssh.Error):
            while received := await self._process.stderr.read(STDERR_LINE_BYTES):
                *lines, pending = (pending + received).split(b"\n")
                pending = pending[-STDERR_LINE_BYTES:]
                for line in lines:
                    self._say(line)
        self._say(pending)

    def _say(self, line: bytes) -> None:
        text = line.decode("utf-8", "backslashreplace").rstrip()
        if text:
            self._stderr.append(text)
            if self._on_stderr is not None:
                self._on_stderr(text)
