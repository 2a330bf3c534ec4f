import asyncio
import os
import socket
import sys
from pathlib import Path

import pytest

from migrate.errors import ConnectionLost, RemoteProgramFailed, RemoteProtocolError, TransportError
from migrate.transport.channel import FrameChannel
from migrate.transport.frames import PREFACE, BlockingFrames
from tests.unit.migrate_transport.running import run, session_to
from tests.unit.migrate_transport.sshd import Server

REPOSITORY = Path(__file__).resolve().parents[3]


async def channel_over(connection: socket.socket) -> tuple[FrameChannel, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    return FrameChannel(reader, writer, "keeper"), writer


def test_a_channel_over_a_unix_socket_understands_blocking_frames() -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        channel, writer = await channel_over(ours)
        with theirs:
            theirs.settimeout(10)
            far = BlockingFrames(theirs)
            large = b"z" * (2 << 20)
            sending = asyncio.create_task(channel.send(large))
            assert await asyncio.to_thread(far.recv) == large
            await sending
            await asyncio.to_thread(far.send, b"one")
            await asyncio.to_thread(far.send, b"")
            assert [await channel.recv(), await channel.recv()] == [b"one", b""]
        assert await channel.recv() is None
        writer.close()

    run(talk())


@pytest.mark.parametrize(
    ("sent", "error"),
    [(b"motd\n", RemoteProtocolError), (PREFACE + b"\0\0\0\5abc", ConnectionLost)],
)
def test_a_bad_stream_raises_from_recv(sent: bytes, error: type[TransportError]) -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        channel, writer = await channel_over(ours)
        theirs.sendall(sent)
        theirs.close()
        with pytest.raises(error):
            await channel.recv()
        writer.close()

    run(talk())


def test_the_reason_for_an_end_is_asked_for() -> None:
    async def talk() -> None:
        async def explain() -> TransportError:
            return RemoteProgramFailed("host-b: ended with status 1")

        ours, theirs = socket.socketpair()
        theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        channel = FrameChannel(reader, writer, "host-b", explain_end=explain)
        with pytest.raises(RemoteProgramFailed):
            await channel.recv()
        writer.close()

    run(talk())


# The far side of the real thing: `migrate dest` speaks over its stdin and stdout.
STDIO = """
import asyncio
from migrate.transport.channel import open_pipe_channel
async def main():
    channel = await open_pipe_channel(0, 1, "coordinator")
    while (message := await channel.recv()) is not None:
        await channel.send(message)
asyncio.run(main())
"""


def test_a_channel_over_stdin_and_stdout_speaks_through_ssh(server: Server) -> None:
    async def talk() -> None:
        large = os.urandom(6 << 20)
        async with session_to(server, "env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-c", STDIO) as session:
            process = await session.start([])
            for message in (b"hello", large):
                sending = asyncio.create_task(process.frames.send(message))
                assert await process.frames.recv() == message
                await sending
            await process.end_input()
            assert await process.frames.recv() is None
            assert await process.wait() == 0

    run(talk())
