"""Sessions over a real OpenSSH server: processes, page streams, config, and what happens when things end."""

import asyncio
import contextlib
import dataclasses
import os
import shlex
import signal
import socket
import sys
from pathlib import Path

import pytest

from migrate.errors import (
    ConnectionLost,
    RemoteProgramFailed,
    RemoteProgramMissing,
    RemoteProtocolError,
    RemoteSudoRefused,
    TransportError,
)
from migrate.transport.session import open_session
from tests.unit.migrate_transport.running import run, session_to, wait_for
from tests.unit.migrate_transport.sshd import Server, descendants, kill

# The far side of a conversation: answers every message with its length, in frames over stdin and stdout.
ECHO = """
import sys
from migrate.transport.frames import PREFACE, FrameDecoder, encode_frame
sys.stdout.buffer.write(PREFACE)
print("echo is here", file=sys.stderr, flush=True)
decoder = FrameDecoder("near")
while received := sys.stdin.buffer.read1(1 << 16):
    for message in decoder.feed(received):
        sys.stdout.buffer.write(encode_frame(message))
        sys.stdout.buffer.flush()
"""
REPOSITORY = Path(__file__).resolve().parents[3]


def python(script: str) -> list[str]:
    return ["env", f"PYTHONPATH={REPOSITORY}", sys.executable, "-c", script]


def test_messages_of_any_size_go_both_ways_and_stderr_is_kept_by_lines(server: Server) -> None:
    async def talk() -> None:
        seen: list[str] = []
        async with session_to(server, *python(ECHO)) as session:
            process = await session.start([], on_stderr=seen.append)
            for message in [b"hello", b"", os.urandom(5 << 20)]:
                sending = asyncio.create_task(process.frames.send(message))
                assert await process.frames.recv() == message
                await sending
            await process.end_input()
            assert await process.frames.recv() is None
            assert await process.wait() == 0
            assert seen == ["echo is here"] == list(process.stderr_lines)

    run(talk())


def test_arguments_arrive_as_they_are_behind_the_remote_command(server: Server) -> None:
    async def talk() -> None:
        script = "import sys; print(repr(sys.argv[1:]), file=sys.stderr)"
        async with session_to(server, *python(script)) as session:
            process = await session.start(["a b", "$HOME", "'", "--protocol"])
            assert await process.wait() == 0
            assert process.stderr_lines == (repr(["a b", "$HOME", "'", "--protocol"]),)

    run(talk())


def test_several_processes_share_the_connection_up_to_the_servers_limit(server: Server) -> None:
    async def talk() -> None:
        async with session_to(server, "cat") as session:
            processes = [await session.start([]) for _ in range(4)]
            with pytest.raises(TransportError) as caught:
                await session.start([])
            assert "MaxSessions" in (caught.value.hint or "")
            assert len(server.session_pids()) >= 4
            await processes[0].close()
            await session.start([])

    run(talk())


def first_word_error(server: Server, *remote_command: str) -> TransportError:
    async def talk() -> None:
        async with session_to(server, *remote_command) as session:
            process = await session.start(["dest", "--protocol", "1"])
            with contextlib.suppress(TransportError):
                await process.frames.send(b"hello")
            await process.frames.recv()

    with pytest.raises(TransportError) as caught:
        run(talk())
    assert caught.value.message.startswith("127.0.0.1: ")
    return caught.value


def fake_sudo(folder: Path, says: str) -> str:
    path = folder / "sudo"
    path.write_text(f"#!/bin/sh\necho {shlex.quote(says)} >&2\nexit 1\n")
    path.chmod(0o755)
    return str(path)


def test_a_missing_program_says_how_to_install_it(server: Server) -> None:
    error = first_word_error(server, "migrate-is-not-here")
    assert isinstance(error, RemoteProgramMissing)
    assert "127.0.0.1: migrate-is-not-here: not installed" in error.message
    assert "migrate bootstrap" in (error.hint or "")


def test_a_missing_program_behind_sudo_is_missing_too(server: Server, tmp_path: Path) -> None:
    error = first_word_error(server, fake_sudo(tmp_path, "sudo: migrate: command not found"), "-n", "migrate")
    assert isinstance(error, RemoteProgramMissing)
    assert "127.0.0.1: migrate: not installed" in error.message


def test_a_sudo_that_wants_a_password_is_told_apart(server: Server, tmp_path: Path) -> None:
    error = first_word_error(server, fake_sudo(tmp_path, "sudo: a password is required"), "-n", "migrate")
    assert isinstance(error, RemoteSudoRefused)
    assert "a password is required" in error.message
    assert "NOPASSWD" in (error.hint or "")


def test_a_program_that_may_not_be_run_is_named(server: Server, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not executable")
    error = first_word_error(server, str(plain))
    assert isinstance(error, RemoteProgramMissing)
    assert "cannot be run" in error.message


def test_another_program_of_that_name_is_not_taken_for_ours(server: Server) -> None:
    error = first_word_error(server, "sh", "-c", "echo 'usage: migrate up|down' >&2; exit 2")
    assert isinstance(error, RemoteProtocolError)
    assert "ended with status 2 before it spoke our protocol: usage: migrate up|down" in error.message


def test_a_shell_that_prints_in_every_session_is_quoted(server: Server) -> None:
    error = first_word_error(server, "sh", "-c", "echo Last login: today; cat")
    assert isinstance(error, RemoteProtocolError)
    assert "'Last login: today" in error.message


def test_a_program_of_another_framing_version_is_refused(server: Server) -> None:
    error = first_word_error(server, "printf", r"MGRT\000\011")
    assert isinstance(error, RemoteProtocolError)
    assert "version 9" in error.message


def test_a_program_that_fails_after_it_spoke_gives_its_last_words(server: Server) -> None:
    script = (
        "import sys; from migrate.transport.frames import *; sys.stdout.buffer.write(PREFACE + encode_frame(b'hi'));"
        "sys.stdout.flush(); sys.exit('disk on fire')"
    )

    async def talk() -> None:
        async with session_to(server, *python(script)) as session:
            process = await session.start([])
            assert await process.frames.recv() == b"hi"
            with pytest.raises(RemoteProgramFailed, match="ended with status 1: disk on fire"):
                await process.frames.recv()

    run(talk())


def test_a_killed_server_is_a_lost_connection_at_once_for_everybody(server: Server) -> None:
    async def talk() -> None:
        async with session_to(server, "sh", "-c") as session:
            process = await session.start(["cat"])
            near, far = socket.socketpair()
            stream = await session.open_page_stream(["cat >/dev/null"], far.detach())
            receiving = asyncio.create_task(process.frames.recv())
            streaming = asyncio.create_task(stream.wait())
            near.sendall(b"x" * 1000)
            await wait_for(lambda: stream.bytes_moved == 1000, "the bytes are on their way")
            kill(server.session_pids())
            started = asyncio.get_running_loop().time()
            for task in (receiving, streaming):
                with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1"):
                    await task
            with pytest.raises(ConnectionLost):
                await process.frames.send(b"x" * (1 << 20))
            with pytest.raises(ConnectionLost):
                await session.start([])
            assert asyncio.get_running_loop().time() - started < 2
            near.close()

    run(talk())


def test_a_server_that_falls_silent_is_a_lost_connection_after_the_keepalives(server: Server) -> None:
    options = dataclasses.replace(server.options("cat"), keepalive_interval_s=0.2, keepalive_count_max=2)

    async def talk() -> None:
        async with open_session(server.destination, options, caller=server.caller) as session:
            process = await session.start([])
            for pid in server.session_pids():
                os.kill(pid, signal.SIGSTOP)
            with pytest.raises(ConnectionLost):
                await process.frames.recv()

    run(talk(), deadline_s=15)


def test_leaving_the_session_ends_the_remote_processes_and_closes_our_descriptors(server: Server) -> None:
    before = open_descriptors()

    async def talk() -> None:
        async with session_to(server, "sh", "-c") as session:
            await session.start(["cat"])
            near, far = socket.socketpair()
            await session.open_page_stream(["cat >/dev/null"], far.detach())
            assert descendants(server.pid)
        near.close()
        await wait_for(lambda: not descendants(server.pid), "nothing of ours runs there")

    run(talk())
    assert open_descriptors() == before


def open_descriptors() -> list[str]:
    return sorted(os.readlink(entry.path) for entry in os.scandir("/proc/self/fd") if entry.is_symlink())
