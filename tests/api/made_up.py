"""A server in this process whose hosts are made up. Claims nothing."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from migrate.api.app import make_app
from migrate.api.guards import OpenGuard, TokenGuard
from migrate.api.services import Guard, Services
from migrate.errors import ConnectionLost
from migrate.fleet.hooks import Hooks
from migrate.fleet.hosts import load_inventory
from migrate.fleet.inventory import Inventory
from migrate.fleet.reach import Address
from migrate.fleet.store import Store

Http = TestClient[web.Request, web.Application]
INVENTORY = Inventory.model_validate(
    {
        "hosts": {name: {"address": f"root@{name}"} for name in ("a", "b", "c")},
        "workloads": [{"name": "redis", "command": "redis*", "priority": 5}],
    }
)
DONE = {
    "event": "done", "migration_id": "x", "downtime_s": 0.05, "phases": [{"name": "freeze", "seconds": 0.01}],
    "total_s": 1.0, "rounds": 3, "pages": 10, "sent_bytes": 40960, "pids": [41],
}  # fmt: skip


class MadeUp:
    """Reach to hosts that have one redis each, a one for each of `pids`; every migration ends as `ending` says."""

    def __init__(self, pids: Sequence[int] = (41,)) -> None:
        self.pids = pids
        self.ending: dict[str, Any] = DONE
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.deaf: int | None = None  # a migration lasts until it is cancelled, and is not there for so many wishes
        self.unreachable: set[str] = set()
        self.against: list[dict[str, Any]] = []  # what preflight names
        self.unfit: set[str] = set()  # addresses of hosts that preflight has something against
        self.says: list[dict[str, Any]] | None = None  # what a check says, instead of all that
        self.lacking: set[str] = set()  # hosts whose processor has no AVX
        self.checked: list[Sequence[str]] = []

    async def facts(self, host: Address) -> dict[str, Any]:
        if host.name in self.unreachable:
            raise ConnectionLost(f"{host.name}: no route to host")
        process = {
            "ppid": 1, "start_time": 5, "user": "redis", "command": "redis-server", "cgroup": "/x", "unit": "",
            "memory_bytes": 1 << 20, "faults_per_s": 1.0,
        }  # fmt: skip
        flags = [] if host.name in self.lacking else ["avx"]
        processes = [{**process, "pid": pid} for pid in (self.pids if host.name == "a" else [7])]
        return {
            "name": host.name, "version": "1", "boot_id": "b", "kernel": "6.1", "cpus": 2, "load": 0.5,
            "memory_total": 1 << 30, "memory_available": 1 << 29, "cpu_flags": flags, "processes": processes,
        }  # fmt: skip

    async def check(self, host: Address, arguments: Sequence[str]) -> list[dict[str, Any]]:
        self.checked.append(arguments)
        if self.says is not None:
            return self.says
        there = {"code": "c", "subject": "file /x", "reason": "is missing", "hint": "h", "of_destination": True}
        blockers = [*self.against, *([there] if arguments[1] in self.unfit else [])]
        return [{"event": "started"}, *([{"event": "blocked", "blockers": blockers}] if blockers else [])]

    async def start(self, host: Address, migration_id: str, arguments: Sequence[str]) -> None:
        self.started += [] if migration_id in self.started else [migration_id]

    async def follow(self, host: Address, migration_id: str, skip: int) -> AsyncIterator[dict[str, Any]]:
        ending = {**self.ending, "pids": [int(migration_id.rpartition("-")[2])]} if "-" in migration_id else self.ending
        events = [{"event": "started"}, {"event": "phase_started", "phase": "connect"}, ending]
        for event in events[skip:]:
            if event is ending and self.deaf is not None:
                await until(self._is_turned)
            yield event

    async def _is_turned(self) -> bool:
        return self.deaf is not None and len(self.cancelled) > self.deaf

    async def cancel(self, host: Address, migration_id: str) -> bool:
        self.cancelled.append(migration_id)
        return await self._is_turned()

    async def resolve(self, host: Address, migration_id: str, keep: str | None) -> tuple[int, str]:
        return 0, "Migration x is settled: it runs at the destination."


async def serve(
    folder: Path, work: Callable[[Http, Services, MadeUp], Awaitable[None]], guard: type[TokenGuard] | None = None,
    hooks: Path | None = None, pids: Sequence[int] = (41,),
) -> None:  # fmt: skip
    """Work with a server on a made-up fleet of a, b and c."""
    store, reach = await Store.open(f"sqlite:///{folder}/fleet.db"), MadeUp(pids)
    try:
        await load_inventory(store, INVENTORY)
        chosen: Guard = guard(store) if guard else OpenGuard()
        services = Services(store, reach, chosen, INVENTORY.workloads, Hooks(hooks))
        async with TestClient(TestServer(make_app(services, "me"))) as client:
            await until(lambda: seen(client, guard is not None))
            await work(client, services, reach)
            services.closing.set()
    finally:
        await store.close()


async def seen(client: Http, skip: bool) -> bool:
    if skip:
        return True
    return all(one["facts_at"] for one in (await (await client.get("/api/v1/hosts")).json())["items"])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.wait([asyncio.create_task(asyncio.to_thread(lambda: None))], timeout=0.05)


async def ended(client: Http, migration_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def over() -> bool:
        found.update(await (await client.get(f"/api/v1/migrations/{migration_id}")).json())
        return found["state"] not in ("queued", "running")

    await until(over)
    return found


def run(
    folder: Path, work: Callable[[Http, Services, MadeUp], Awaitable[None]], guard: type[TokenGuard] | None = None,
    hooks: Path | None = None, pids: Sequence[int] = (41,),
) -> None:  # fmt: skip
    """`serve`, from a test that is no coroutine."""
    asyncio.run(serve(folder, work, guard, hooks, pids))
