"""The typed client can do whatever the API can, and says so in the API's models."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from migrate.api import models
from migrate.api.app import ROUTES
from migrate.api.client import Client, ServerError
from migrate.api.services import Services
from tests.api.made_up import Http, MadeUp, serve


class Recording(Client):
    """Notes what it asked."""

    asked: list[tuple[str, str]]

    async def _call(
        self, method: str, path: str, body: BaseModel | None = None, *, query: dict[str, Any] | None = None,
        key: str | None = None,
    ) -> str:  # fmt: skip
        self.asked.append((method, path))
        return await super()._call(method, path, body, query=query, key=key)


def routes_of(asked: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """The operations behind requests."""
    patterns = {(one.method, one.path): re.compile(re.sub(r"{\w+}", "[^/]+", one.path)) for one in ROUTES}
    return {
        (method, path) for method, told in asked for (ways, path), pattern in patterns.items()
        if ways == method and pattern.fullmatch(told) and not (path.endswith("}") and told.endswith("/events"))
    }  # fmt: skip


async def hears_of_a_change(client: Client) -> None:
    """It may not listen yet when a host changes."""
    hearing = asyncio.ensure_future(anext(client.changes()))
    async with asyncio.timeout(60):
        while not hearing.done():
            await client.cordon("c")
            await asyncio.wait([hearing], timeout=0.1)
    assert hearing.result() == "hosts"


def test_every_operation_has_its_method(tmp_path: Path) -> None:
    async def work(http: Http, _services: Services, _reach: MadeUp) -> None:
        client = Recording(str(http.make_url("")))
        async with client:
            client.asked = []
            assert (await client.host("a")).name == "a"
            await client.add_host(models.NewHost.model_validate({"name": "d", "address": "root@d"}))
            assert [one.name for one in await client.hosts()] == ["a", "b", "c", "d"]
            await client.remove_host("d")
            assert (await client.cordon("b", "disk")).cordoned
            assert not (await client.uncordon("b")).cordoned
            assert (await client.refresh("a")).name == "a"
            assert [one["pid"] for one in await client.processes("a")] == [41]
            assert [(one.name, one.pid) for one in await client.workloads()] == [
                ("redis", 41),
                ("redis", 7),
                ("redis", 7),
            ]
            await client.put_selector(models.NewSelector.model_validate({"name": "web", "command": "nginx*"}))
            assert "web" in [one.name for one in await client.selectors()]
            await client.remove_selector("web")
            assert "web" not in [one.name for one in await client.selectors()]
            window = await client.put_window(models.Window(name="night", text="Sat 02:00-04:00 Europe/Berlin"))
            assert window.opens_at is not None
            assert [one.name for one in await client.windows()] == ["night"]
            await client.remove_window("night")
            assert await client.windows() == []
            token = await client.add_token(models.NewToken(name="grafana", role=models.Role.VIEWER))
            assert token.token
            assert [(one.name, one.token) for one in await client.tokens()] == [("grafana", None)]
            await client.remove_token("grafana")
            move = {"source": "a", "pid": 41, "destination": "b"}
            assert not (await client.check(models.Check.model_validate(move))).blockers
            await hears_of_a_change(client)
            started = await client.start(models.NewMigration.model_validate(move))
            assert [event.body["event"] async for event in client.events(started.id)][-1] == "done"
            assert (await client.migration(started.id)).state == models.State.DONE
            assert [one.id for one in await client.migrations()] == [started.id]
            for refused in (client.cancel(started.id), client.resolve(started.id, models.Resolve())):
                with pytest.raises(ServerError):
                    await refused
            drain = await client.drain(models.NewDrain.model_validate({"host": "a"}))
            assert drain.id in [one.id for one in await client.drains()]
            assert (await client.drain_state(drain.id)).host == "a"
            await client.cancel_drain(drain.id, models.CancelDrain())
            assert "cancel-drain" in [one.action for one in await client.audit()]
            streams = {(one.method, one.path) for one in ROUTES if one.streams}
            assert routes_of(client.asked) == {(one.method, one.path) for one in ROUTES} - streams

    asyncio.run(serve(tmp_path, work))
