"""A typed client of `migrate serve`, for scripts and for our own command line.

async with Client("https://ops:8467", token="mig_…") as client:
    migration = await client.start(NewMigration(source="web-1", pid=4711, destination="web-2"))
    async for event in client.events(migration.id): ...
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from core.errors import Blocker, MigrateError, Refused, UsageError
from migrate.api import models
from migrate.errors import ConnectionLost

M = TypeVar("M", bound=BaseModel)
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

    async def add_host(self, wanted: models.NewHost) -> models.Host:
        """Add one."""
        return await self._ask(models.Host, "POST", "/hosts", wanted)

    async def remove_host(self, name: str) -> None:
        """Forget one."""
        await self._call("DELETE", f"/hosts/{name}")

    async def cordon(self, name: str, reason: str = "") -> models.Host:
        """Nothing goes there any more."""
        return await self._ask(models.Host, "POST", f"/hosts/{name}/cordon", models.Cordon(reason=reason))

    async def uncordon(self, name: str) -> models.Host:
        """It takes migrations again."""
        return await self._ask(models.Host, "POST", f"/hosts/{name}/uncordon")

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
        failures = 0
        while True:
            try:
                url = f"{self._url}{PREFIX}/migrations/{migration_id}/events"
                async with self._session.get(url, headers={"Last-Event-ID": str(after)}) as response:
                    await _raise_for(response)
                    async for name, text in _server_sent(response):
                        failures = 0
                        if name == "end":
                            return
                        if name == "migration":
                            event = models.EventModel.model_validate_json(text)
                            after = event.number
                            yield event
            except (aiohttp.ClientError, TimeoutError) as error:
                failures += 1
                if failures > RETRIES:
                    raise ConnectionLost(f"{self._url}: {error}", hint="is the server up?") from error
            await asyncio.sleep(min(2.0**failures, 10.0) / 2)

    async def _all(self, model: type[models.Page[M]], path: str, query: dict[str, Any]) -> list[M]:
        found: list[M] = []
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
            raise ConnectionLost(f"{self._url}: {error or type(error).__name__}", hint="is the server up?") from error


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


async def _server_sent(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str]]:
    """(event, data) of a text/event-stream."""
    name, lines = "message", list[str]()
    async for raw in response.content:
        line = raw.decode().rstrip("\r\n")
        if not line:
            if lines:
                yield name, "\n".join(lines)
            name, lines = "message", []
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            lines.append(value)
