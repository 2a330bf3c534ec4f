"""A typed client of `migrate serve`, for scripts and for our own command line.

async with Client("https://ops:8467", token="mig_…") as client:
    migration = await client.start(NewMigration(source="web-1", pid=4711, destination="web-2"))
    async for event in client.events(migration.id): ...
"""

import asyncio
import json
import os
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, TypeVar
from urllib.parse import quote

import aiohttp
from pydantic import BaseModel, ValidationError

from core.errors import Blocker, MigrateError, Refused, UsageError
from migrate.api import models
from migrate.errors import ConnectionLost
from migrate.fleet.inventory import Workload

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
PREFIX: Final = "/api/v1"
RETRIES: Final = 5


class ServerError(MigrateError):
    """The server's answer is an error: `problem` is all it said."""

    def __init__(self, problem: models.Problem) -> None:
        text = f"{problem.title}: {problem.detail}" if problem.detail else problem.title
        super().__init__(text, hint=problem.hint or None)
        self.problem = problem


class Client:
    """One server. Errors are Refused, UsageError, ServerError and ConnectionLost."""

    def __init__(self, url: str, *, token: str = "", tls: ssl.SSLContext | None = None) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._url = url.rstrip("/")
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(ssl=tls or True),
            timeout=aiohttp.ClientTimeout(sock_connect=10),
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def migrations(self, **query: str | int) -> list[models.Migration]:
        """All that match, the newest first."""
        return await self._all(models.Page[models.Migration], "/migrations", query)

    async def migration(self, migration_id: str) -> models.Migration:
        """One of them."""
        return await self._ask(models.Migration, "GET", f"/migrations/{migration_id}")

    async def start(self, wanted: models.NewMigration, *, key: str | None = None) -> models.Migration:
        """Start one. With the same `key` (any text of yours) again, it is not started twice."""
        return await self._ask(models.Migration, "POST", "/migrations", wanted, key=key)

    async def cancel(self, migration_id: str) -> models.Migration:
        """Ask it to turn back."""
        return await self._ask(models.Migration, "POST", f"/migrations/{migration_id}/cancel")

    async def resolve(self, migration_id: str, wanted: models.Resolve) -> models.Migration:
        """Settle one that is in doubt."""
        return await self._ask(models.Migration, "POST", f"/migrations/{migration_id}/resolve", wanted)

    async def check(self, wanted: models.Check) -> models.CheckResult:
        """Everything that would be in the way."""
        return await self._ask(models.CheckResult, "POST", "/checks", wanted)

    async def hosts(self) -> list[models.Host]:
        """All hosts."""
        return await self._all(models.Page[models.Host], "/hosts", {})

    async def host(self, name: str) -> models.Host:
        """One of them."""
        return await self._ask(models.Host, "GET", f"/hosts/{_part(name)}")

    async def add_host(self, wanted: models.NewHost) -> models.Host:
        """Add one."""
        return await self._ask(models.Host, "POST", "/hosts", wanted)

    async def remove_host(self, name: str) -> None:
        """Forget one."""
        await self._call("DELETE", f"/hosts/{_part(name)}")

    async def cordon(self, name: str, reason: str = "") -> models.Host:
        """Nothing goes there any more."""
        return await self._ask(models.Host, "POST", f"/hosts/{_part(name)}/cordon", models.Cordon(reason=reason))

    async def uncordon(self, name: str) -> models.Host:
        """It takes migrations again."""
        return await self._ask(models.Host, "POST", f"/hosts/{_part(name)}/uncordon")

    async def refresh(self, name: str) -> models.Host:
        """Look at it anew, now."""
        return await self._ask(models.Host, "POST", f"/hosts/{_part(name)}/refresh")

    async def processes(self, name: str, **query: str | int) -> list[dict[str, Any]]:
        """What runs there: by `user`, `unit`, `cgroup`, `command` …, all or those that match."""
        return await self._all(models.Page[dict[str, Any]], f"/hosts/{_part(name)}/processes", query)

    async def workloads(self) -> list[Workload]:
        """What the selectors choose on all hosts."""
        return await self._all(models.Page[Workload], "/workloads", {})

    async def selectors(self) -> list[models.PlacedSelector]:
        """All, in the order in which they are asked."""
        return await self._all(models.Page[models.PlacedSelector], "/selectors", {})

    async def put_selector(self, wanted: models.NewSelector) -> models.PlacedSelector:
        """Add it, or give the one of its name another meaning."""
        return await self._ask(models.PlacedSelector, "POST", "/selectors", wanted)

    async def remove_selector(self, name: str) -> None:
        """Forget one."""
        await self._call("DELETE", f"/selectors/{_part(name)}")

    async def windows(self) -> list[models.Window]:
        """All maintenance windows."""
        return await self._all(models.Page[models.Window], "/windows", {})

    async def put_window(self, wanted: models.Window) -> models.Window:
        """Add it, or give the one of its name other times."""
        return await self._ask(models.Window, "POST", "/windows", wanted)

    async def remove_window(self, name: str) -> None:
        """Forget one."""
        await self._call("DELETE", f"/windows/{_part(name)}")

    async def tokens(self) -> list[models.Token]:
        """All, without their texts."""
        return await self._all(models.Page[models.Token], "/tokens", {})

    async def add_token(self, wanted: models.NewToken) -> models.Token:
        """A new one; its text is told this once."""
        return await self._ask(models.Token, "POST", "/tokens", wanted)

    async def remove_token(self, name: str) -> None:
        """It opens nothing any more."""
        await self._call("DELETE", f"/tokens/{_part(name)}")

    async def audit(self, **query: str | int) -> list[models.AuditEntry]:
        """Who did what, the newest first."""
        return await self._all(models.Page[models.AuditEntry], "/audit", query)

    async def drain(self, wanted: models.NewDrain, *, key: str | None = None) -> models.Drain:
        """Empty a host, or plan it when it is a dry run."""
        return await self._ask(models.Drain, "POST", "/drains", wanted, key=key)

    async def drains(self, **query: str | int) -> list[models.Drain]:
        """All drains, the newest first."""
        return await self._all(models.Page[models.Drain], "/drains", query)

    async def drain_state(self, drain_id: str) -> models.Drain:
        """One of them."""
        return await self._ask(models.Drain, "GET", f"/drains/{drain_id}")

    async def cancel_drain(self, drain_id: str, wanted: models.CancelDrain) -> models.Drain:
        """Begin nothing more."""
        return await self._ask(models.Drain, "POST", f"/drains/{drain_id}/cancel", wanted)

    async def events(self, migration_id: str, after: int = 0) -> AsyncIterator[models.EventModel]:
        """Its events behind number `after`, until it is over; connects again when the connection breaks."""
        async for name, text in self._listen(f"/migrations/{migration_id}/events", after):
            if name == "end":
                return
            if name == "migration":
                yield models.EventModel.model_validate_json(text)

    async def changes(self) -> AsyncIterator[str]:
        """Ids of migrations and drains as they change, and `hosts`; connects again when the connection breaks, and
        what changes meanwhile is not told."""
        async for name, text in self._listen("/changes"):
            if name == "change":
                yield str(json.loads(text)["changed"])

    async def _listen(self, path: str, after: int = 0) -> AsyncIterator[tuple[str, str]]:
        """(event, data) of a stream behind number `after`, for ever."""
        failures = 0
        while True:
            try:
                headers = {"Last-Event-ID": str(after)}
                async with self._session.get(f"{self._url}{PREFIX}{path}", headers=headers) as response:
                    await _raise_for(response)
                    async for number, name, text in _server_sent(response):
                        failures, after = 0, number or after
                        yield name, text
            except (aiohttp.ClientError, TimeoutError) as error:
                failures += 1
                if failures > RETRIES:
                    raise ConnectionLost(f"{self._url}: {error}", hint="is the server up?") from error
            await asyncio.sleep(min(2.0**failures, 10.0) / 2)

    async def _all(self, model: type[models.Page[T]], path: str, query: dict[str, Any]) -> list[T]:
        found: list[T] = []
        offset: int | None = 0
        while offset is not None:
            page = model.model_validate_json(await self._call("GET", path, query={**query, "offset": offset}))
            found += page.items
            offset = page.next
        return found

    async def _ask(
        self, model: type[M], method: str, path: str, body: BaseModel | None = None, *, key: str | None = None
    ) -> M:
        text = await self._call(method, path, body, key=key)
        try:
            return model.model_validate_json(text)
        except ValidationError as error:
            raise MigrateError(f"{self._url}: its answer is not understood", hint="is it of this version?") from error

    async def _call(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        query: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> str:
        headers = {"Idempotency-Key": key} if key else {}
        try:
            async with self._session.request(
                method,
                self._url + PREFIX + path,
                params={name: str(value) for name, value in (query or {}).items()},
                data=body.model_dump_json() if body is not None else None,
                headers={**headers, "Content-Type": "application/json"},
            ) as response:
                await _raise_for(response)
                return await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionLost(f"{self._url}: {_reason(error)}", hint="is the server up?") from error


def _reason(error: Exception) -> str:
    """Without the address, which is told already."""
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "no host has this name"
        case aiohttp.ClientConnectorError() if error.os_error.errno:
            return os.strerror(error.os_error.errno)
        case TimeoutError():
            return "no answer in time"
    return str(error) or type(error).__name__


def _part(name: str) -> str:
    """Of a path."""
    return quote(name, safe="")


async def _raise_for(response: aiohttp.ClientResponse) -> None:
    if response.status < 400:
        return
    try:
        problem = models.Problem.model_validate(json.loads(await response.text()))
    except (ValueError, ValidationError):
        problem = models.Problem(title=response.reason or "error", status=response.status)
    if problem.blockers:
        raise Refused([Blocker(**one.model_dump()) for one in problem.blockers])
    if problem.status == 422:
        raise UsageError(problem.detail or problem.title, hint=problem.hint or None)
    raise ServerError(problem)


async def _server_sent(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[int, str, str]]:
    """(number, event, data) of a text/event-stream; number 0: it has none."""
    number, name, lines = 0, "message", list[str]()
    async for raw in response.content:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if lines:
                yield number, name, "\n".join(lines)
            number, name, lines = 0, "message", []
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id" and value.isdecimal():
            number = int(value)
        elif field == "data":
            lines.append(value)
