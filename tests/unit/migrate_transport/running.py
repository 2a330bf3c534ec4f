"""Coroutines in tests: one loop per test, never longer than the deadline. And a session to the test's server."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

from migrate.transport.session import SshSession, open_session
from tests.unit.migrate_transport.sshd import Server

T = TypeVar("T")


def run(steps: Coroutine[object, object, T], *, deadline_s: float = 30) -> T:
    """The result of `steps`, or TimeoutError."""
    return asyncio.run(_limited(steps, deadline_s))


async def _limited(steps: Coroutine[object, object, T], deadline_s: float) -> T:
    try:
        return await asyncio.wait_for(steps, deadline_s)
    finally:  # a proxy command that was ended is to be heard of, or asyncio complains later, in another test
        await wait_for(lambda: not any("waitpid-" in one.name for one in threading.enumerate()), "reaped")
        await asyncio.sleep(0)


async def wait_for(condition: Callable[[], object], what: str, *, deadline_s: float = 10) -> None:
    """Let the loop run until `condition()` is true."""
    end = asyncio.get_running_loop().time() + deadline_s
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.005)


@asynccontextmanager
async def session_to(server: Server, *remote_command: str) -> AsyncIterator[SshSession]:
    async with open_session(server.destination, server.options(*remote_command), caller=server.caller) as session:
        yield session
