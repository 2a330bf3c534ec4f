"""Bulk bytes from a local descriptor into a process there."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from migrate.errors import RemoteProgramMissing
from tests.unit.migrate_transport.running import run, session_to, wait_for
from tests.unit.migrate_transport.sshd import Server


@pytest.mark.parametrize("make_ends", ["pipe", "socketpair"])
def test_a_page_stream_carries_every_byte_and_ends_with_its_writer(server: Server, make_ends: str) -> None:
    content = os.urandom(1 << 20) * 24 + b"tail"

    async def talk() -> None:
        async with session_to(server, "sh", "-c") as session:
            ours, theirs = os.pipe() if make_ends == "pipe" else [end.detach() for end in socket.socketpair()]
            stream = await session.open_page_stream(["sha256sum >&2"], ours)
            await asyncio.to_thread(write_all, theirs, content)
            assert await stream.wait() == 0
            assert stream.bytes_moved == len(content)
            assert stream.process.stderr_lines[0].split()[0] == hashlib.sha256(content).hexdigest()

    run(talk())


def write_all(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb") as file:
        file.write(content)


def test_a_slow_reader_there_stops_the_writer_here(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    async def talk() -> None:
        async with session_to(server, "sh", "-c") as session:
            near, far = socket.socketpair()
            stream = await session.open_page_stream([f"read x < {gate}; cat >/dev/null"], far.detach())
            writing = asyncio.create_task(asyncio.to_thread(write_all, near.detach(), bytes(64 << 20)))
            await wait_for(steady(lambda: stream.bytes_moved), "the stream stands still")
            assert 0 < stream.bytes_moved < 16 << 20
            assert not writing.done()
            await asyncio.to_thread(gate.write_text, "go\n")
            assert await stream.wait() == 0
            await writing
            assert stream.bytes_moved == 64 << 20

    run(talk())


def steady(value: Callable[[], int]) -> Callable[[], bool]:
    """True once `value()` has been the same, and not 0, for 50 looks."""
    looks: list[int] = []

    def look() -> bool:
        looks.append(value())
        return looks[-1] > 0 and len(looks) > 50 and len(set(looks[-50:])) == 1

    return look


def test_a_remote_end_that_stops_early_gives_its_status_and_breaks_the_writer(server: Server) -> None:
    async def talk() -> None:
        async with session_to(server, "sh", "-c") as session:
            near, far = socket.socketpair()
            stream = await session.open_page_stream(["echo no space left >&2; exit 3"], far.detach())
            assert await stream.wait() == 3
            assert stream.process.stderr_lines == ("no space left",)
            with near, pytest.raises(BrokenPipeError):
                near.sendall(b"x")

    run(talk())


def test_a_page_stream_to_a_missing_program_says_so(server: Server) -> None:
    async def talk() -> None:
        async with session_to(server, "migrate-is-not-here") as session:
            near, far = socket.socketpair()
            with near, pytest.raises(RemoteProgramMissing):
                await (await session.open_page_stream(["pages"], far.detach())).wait()

    run(talk())
