"""The way to the hosts: `migrate agent …` on each, over one SSH connection per host, or here for a `local` one."""

import asyncio
import contextlib
import json
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

from migrate.errors import ConnectionLost, ProtocolError, TransportError
from migrate.fleet.inventory import LOCAL
from migrate.transport import session
from migrate.transport.destination import parse_destination
from migrate.wiring import ssh_options


@dataclass(frozen=True, slots=True)
class Address:
    """How a host is reached: as HOSTS has it."""

    name: str
    address: str
    route: tuple[tuple[str, str], ...] = ()

    @property
    def is_local(self) -> bool:
        """True for this machine."""
        return self.address == LOCAL


class Reach(Protocol):
    """What is asked of hosts. Errors are MigrateError; ConnectionLost when nothing is known of how it went."""

    async def facts(self, host: Address) -> dict[str, Any]:
        """migrate.agent.HostFacts as JSON has it."""
        ...

    async def check(self, host: Address, arguments: Sequence[str]) -> list[dict[str, Any]]:
        """The events of `migrate check ARGUMENTS`."""
        ...

    async def start(self, host: Address, migration_id: str, arguments: Sequence[str]) -> None:
        """Start `migrate ARGUMENTS`, once however often this is called."""
        ...

    def follow(self, host: Address, migration_id: str, skip: int) -> AsyncIterator[dict[str, Any]]:
        """Its events from number `skip` on, until its last."""
        ...

    async def cancel(self, host: Address, migration_id: str) -> bool:
        """Ask it to turn back; False when it does not run: it has not begun, or has ended."""
        ...

    async def resolve(self, host: Address, migration_id: str, keep: str | None) -> tuple[int, str]:
        """`migrate resolve`: exit code and what it said."""
        ...


@dataclass(slots=True)
class _Line:
    """One host's connection; made when first needed, anew after it broke."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    stack: AsyncExitStack | None = None
    open: session.SshSession | None = None


class SshReach:
    """Reach over SSH, as `migrate` itself connects. `command` is what starts migrate here."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "migrate.cli")) -> None:
        self._command = tuple(command)
        self._lines: dict[str, _Line] = {}

    async def close(self) -> None:
        """Close every connection."""
        for line in self._lines.values():
            await self._drop(line)

    async def facts(self, host: Address) -> dict[str, Any]:
        """See Reach."""
        return await self._answer(host, ["agent", "facts"])

    async def check(self, host: Address, arguments: Sequence[str]) -> list[dict[str, Any]]:
        """See Reach."""
        status, lines, errors = await self._run(host, ["check", *arguments, "--json"], may_be_ended=True)
        events = [_parse(host, line) for line in lines]
        said = {event.get("event") for event in events}
        if not said or (status != 0 and not {"blocked", "failed"} & said):
            raise _unanswered(host, "check", status, errors)
        return events

    async def start(self, host: Address, migration_id: str, arguments: Sequence[str]) -> None:
        """See Reach."""
        await self._answer(host, ["agent", "start", migration_id, "--", *arguments])

    async def cancel(self, host: Address, migration_id: str) -> bool:
        """See Reach."""
        return bool((await self._answer(host, ["agent", "cancel", migration_id]))["cancelled"])

    async def resolve(self, host: Address, migration_id: str, keep: str | None) -> tuple[int, str]:
        """See Reach."""
        status, lines, errors = await self._run(
            host, ["resolve", migration_id, *(["--keep", keep] if keep is not None else [])]
        )
        return status, "\n".join([*lines, *errors])

    async def follow(self, host: Address, migration_id: str, skip: int) -> AsyncIterator[dict[str, Any]]:
        """See Reach."""
        command = ["agent", "follow", migration_id, "--skip", str(skip)]
        if host.is_local:
            process = await self._spawn(command)
            assert process.stdout is not None
            try:
                async for raw in process.stdout:
                    yield _parse(host, raw.decode())
            finally:
                await _end(process)
            return
        remote = await (await self._session(host)).start(command)
        try:
            async for line in remote.lines():
                yield _parse(host, line)
        finally:
            await remote.close()

    async def _answer(self, host: Address, command: Sequence[str]) -> dict[str, Any]:
        status, lines, errors = await self._run(host, command)
        if status != 0 or not lines:
            raise _unanswered(host, shlex.join(command[:2]), status, errors)
        return _parse(host, lines[-1])

    async def _run(
        self, host: Address, command: Sequence[str], *, may_be_ended: bool = False
    ) -> tuple[int, list[str], list[str]]:
        """Exit status, and the lines of standard output and standard error. `may_be_ended`: when nobody waits any more;
        others go on here as they do elsewhere."""
        if host.is_local:
            process = await self._spawn(command)
            try:
                out, errors = await process.communicate()
            finally:
                if may_be_ended:
                    await _end(process)
            return process.returncode or 0, out.decode().splitlines(), errors.decode(errors="replace").splitlines()
        remote = await (await self._session(host)).start(command)
        try:
            await remote.end_input()
            lines = await remote.text()
            return await remote.wait(), lines, list(remote.stderr_lines)
        finally:
            await remote.close()

    async def _spawn(self, command: Sequence[str]) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            *self._command, *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
        )

    async def _session(self, host: Address) -> session.SshSession:
        line = self._lines.setdefault(f"{host.address} {host.route}", _Line())
        async with line.lock:
            if line.open is None or line.open.is_closed:
                await self._drop(line)
                stack = AsyncExitStack()
                opened = session.open_session(parse_destination(host.address), ssh_options(host.route))
                line.open = await stack.enter_async_context(opened)
                line.stack = stack
            return line.open

    async def _drop(self, line: _Line) -> None:
        stack, line.stack, line.open = line.stack, None, None
        if stack is not None:
            with contextlib.suppress(ConnectionLost, OSError):
                await stack.aclose()


def _unanswered(host: Address, command: str, status: int, errors: Sequence[str]) -> TransportError:
    said = errors[0] if errors else f"exit code {status}"
    return TransportError(f"{host.name}: {command}: {said}", hint="is the same version there?")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()


def _parse(host: Address, line: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ProtocolError(f"{host.name}: said something that is not JSON: {line[:200]!r}") from error
    if not isinstance(found, dict):
        raise ProtocolError(f"{host.name}: said something that is no record: {line[:200]!r}")
    return found
