"""The API's manners, against a server in this process whose hosts are made up."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from migrate.api.app import ROUTES, make_app
from migrate.api.guards import OpenGuard, TokenGuard
from migrate.api.models import Role
from migrate.api.openapi import document
from migrate.api.services import Guard, Services, make_token
from migrate.errors import ConnectionLost
from migrate.fleet.hosts import load_inventory
from migrate.fleet.inventory import Inventory
from migrate.fleet.reach import Address
from migrate.fleet.schema import TOKENS
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
    """Reach to hosts that have one redis each; every migration ends at once as `ending` says."""

    def __init__(self) -> None:
        self.ending: dict[str, Any] = DONE
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.unreachable: set[str] = set()

    async def facts(self, host: Address) -> dict[str, Any]:
        if host.name in self.unreachable:
            raise ConnectionLost(f"{host.name}: no route to host")
        process = {
            "pid": 41 if host.name == "a" else 7, "ppid": 1, "start_time": 5, "user": "redis",
            "command": "redis-server",
            "cgroup": "/x", "unit": "", "memory_bytes": 1 << 20, "faults_per_s": 1.0,
        }  # fmt: skip
        return {
            "name": host.name, "version": "1", "boot_id": "b", "kernel": "6.1", "cpus": 2, "load": 0.5,
            "memory_total": 1 << 30, "memory_available": 1 << 29, "cpu_flags": ["avx"], "processes": [process],
        }  # fmt: skip

    async def check(self, host: Address, arguments: Sequence[str]) -> list[dict[str, Any]]:
        return [{"event": "blocked", "blockers": [{"code": "c", "subject": "s", "reason": "r", "hint": "h"}]}]

    async def start(self, host: Address, migration_id: str, arguments: Sequence[str]) -> None:
        self.started += [] if migration_id in self.started else [migration_id]

    async def follow(self, host: Address, migration_id: str, skip: int) -> AsyncIterator[dict[str, Any]]:
        events = [{"event": "started"}, {"event": "phase_started", "phase": "connect"}, self.ending]
        for event in events[skip:]:
            yield event

    async def cancel(self, host: Address, migration_id: str) -> None:
        self.cancelled.append(migration_id)

    async def resolve(self, host: Address, migration_id: str, keep: str | None) -> tuple[int, str]:
        return 0, "Migration x is settled: it runs at the destination."


async def serve(
    folder: Path, work: Callable[[Http, Services, MadeUp], Awaitable[None]], guard: type[TokenGuard] | None = None
) -> None:
    store, reach = await Store.open(f"sqlite:///{folder}/fleet.db"), MadeUp()
    try:
        await load_inventory(store, INVENTORY)
        chosen: Guard = guard(store) if guard else OpenGuard()
        services = Services(store, reach, chosen, INVENTORY.workloads)
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
    folder: Path, work: Callable[[Http, Services, MadeUp], Awaitable[None]], guard: type[TokenGuard] | None = None
) -> None:
    asyncio.run(serve(folder, work, guard))


MOVE = {"source": "a", "pid": 41, "destination": "b"}


def test_the_same_idempotency_key_starts_one_migration(tmp_path: Path) -> None:
    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        headers = {"Idempotency-Key": "k1"}
        first = await (await client.post("/api/v1/migrations", json=MOVE, headers=headers)).json()
        again = await client.post("/api/v1/migrations", json=MOVE, headers=headers)
        assert (await again.json())["id"] == first["id"] and again.status == 201
        other = await client.post("/api/v1/migrations", json={**MOVE, "pid": 42}, headers=headers)
        assert other.status == 422
        assert (await ended(client, first["id"]))["state"] == "done"
        assert reach.started == [first["id"]]

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        ({"event": "failed", "message": "m", "hint": "h", "kind": "K"}, "failed"),
        ({"event": "blocked", "blockers": [{"code": "c", "subject": "pid 41", "reason": "r", "hint": "h"}]}, "refused"),
        ({"event": "in_doubt", "reason": "r", "command": "migrate resolve x"}, "in_doubt"),
        ({"event": "lost", "state": "HANDED_OVER", "message": "m"}, "in_doubt"),
        ({"event": "lost", "state": "PRECOPY", "message": "m"}, "failed"),
        ({"event": "lost", "state": "DONE", "message": "m"}, "done"),
    ],
)
def test_every_ending_is_a_state_with_its_reason(tmp_path: Path, ending: dict[str, Any], state: str) -> None:
    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        reach.ending = ending
        asked = await (await client.post("/api/v1/migrations", json=MOVE)).json()
        found = await ended(client, asked["id"])
        assert found["state"] == state and found["message"]
        if state == "in_doubt":
            settled = await client.post(f"/api/v1/migrations/{asked['id']}/resolve", json={})
            assert settled.status == 200 and (await settled.json())["state"] == "done"

    run(tmp_path, work)


def test_an_answer_that_did_not_change_is_not_sent_again(tmp_path: Path) -> None:
    async def work(client: Http, _services: Services, _reach: MadeUp) -> None:
        first = await client.get("/api/v1/windows")
        again = await client.get("/api/v1/windows", headers={"If-None-Match": first.headers["ETag"]})
        assert (first.status, again.status) == (200, 304)

    run(tmp_path, work)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/migrations", {"source": "a", "pid": 0, "destination": "b"}, 422),
        ("/migrations", {**MOVE, "surprise": 1}, 422),
        ("/migrations", {**MOVE, "destination": "nowhere"}, 422),
        ("/migrations", {**MOVE, "options": {"bandwidth": "fast"}}, 422),
        ("/drains", {"host": "a", "window": "sometimes"}, 422),
        ("/migrations/none/cancel", {}, 404),
        ("/nothing", {}, 404),
    ],
)
def test_a_bad_request_is_a_problem_that_says_what(tmp_path: Path, path: str, body: object, status: int) -> None:
    async def work(client: Http, _services: Services, _reach: MadeUp) -> None:
        answer = await client.post(f"/api/v1{path}", json=body)
        problem = json.loads(await answer.text())
        assert answer.status == problem["status"] == status and problem["detail"], problem
        assert answer.content_type == "application/problem+json"

    run(tmp_path, work)


def test_roles_let_some_look_and_others_act(tmp_path: Path) -> None:
    async def work(client: Http, services: Services, _reach: MadeUp) -> None:
        tokens = {role: await make_token(services.store, role, role) for role in Role}
        asks: list[tuple[str, str, object]] = [
            ("GET", "/migrations", None),
            ("POST", "/migrations", {**MOVE, "destination": "c"}), ("GET", "/tokens", None),
        ]  # fmt: skip
        may = {}
        for role, token in tokens.items():
            headers = {"Authorization": f"Bearer {token}"}
            answers = [
                await client.request(how, f"/api/v1{path}", json=body, headers=headers) for how, path, body in asks
            ]
            may[role.value] = [answer.status for answer in answers]
        assert may == {"viewer": [200, 403, 403], "operator": [200, 201, 403], "admin": [200, 201, 200]}
        assert (await client.get("/api/v1/migrations")).status == 401
        assert (await client.get("/api/v1/migrations", headers={"Authorization": "Bearer x"})).status == 401
        assert (await client.get("/metrics")).status == 401
        assert [(await client.get(path)).status for path in ("/healthz", "/readyz", "/openapi.json")] == [200] * 3
        stored = await services.store.rows(TOKENS)
        assert all(token.encode() not in row["digest"] for row in stored for token in tokens.values() if token)

    run(tmp_path, work, TokenGuard)


def test_a_page_of_another_site_may_not_act(tmp_path: Path) -> None:
    async def work(client: Http, _services: Services, _reach: MadeUp) -> None:
        answer = await client.post("/api/v1/migrations", json=MOVE, headers={"Origin": "http://evil.example"})
        assert answer.status == 403
        assert (await client.get("/api/v1/hosts", headers={"Host": "evil.example"})).status == 403

    run(tmp_path, work)


def test_events_can_be_heard_again_from_any_number(tmp_path: Path) -> None:
    async def work(client: Http, _services: Services, _reach: MadeUp) -> None:
        asked = await (await client.post("/api/v1/migrations", json=MOVE)).json()
        await ended(client, asked["id"])
        answer = await client.get(f"/api/v1/migrations/{asked['id']}/events", headers={"Last-Event-ID": "1"})
        text = await answer.text()
        assert [line for line in text.splitlines() if line.startswith("id: ")] == ["id: 2", "id: 3"]
        assert text.rstrip().endswith('{"state": "done"}')

    run(tmp_path, work)


def test_metrics_count_what_happened(tmp_path: Path) -> None:
    async def work(client: Http, _services: Services, _reach: MadeUp) -> None:
        asked = await (await client.post("/api/v1/migrations", json=MOVE)).json()
        await ended(client, asked["id"])
        text = await (await client.get("/metrics")).text()
        assert 'migrate_migrations_total{state="done"} 1.0' in text and "migrate_downtime_seconds_count 1.0" in text
        assert 'migrate_hosts{state="known"} 3.0' in text

    run(tmp_path, work)


def test_a_drain_that_cannot_reach_its_host_is_refused(tmp_path: Path) -> None:
    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        reach.unreachable = {"a"}
        answer = await client.post("/api/v1/drains", json={"host": "a"})
        problem = json.loads(await answer.text())
        assert answer.status == 409 and problem["blockers"][0]["code"] == "unreachable"

    run(tmp_path, work)


def test_a_drain_empties_its_host_and_comes_back_when_it_is_uncordoned(tmp_path: Path) -> None:
    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        drain = await (await client.post("/api/v1/drains", json={"host": "a", "and_back": True})).json()
        found: dict[str, Any] = {}

        async def in_state(*states: str) -> bool:
            found.update(await (await client.get(f"/api/v1/drains/{drain['id']}")).json())
            return found["state"] in states

        await until(lambda: in_state("away", "failed"))
        assert found["state"] == "away" and found["moved"] == 1, found
        await client.post("/api/v1/hosts/a/uncordon")
        await until(lambda: in_state("done", "failed"))
        assert found["state"] == "done" and len(reach.started) == 2, found

    run(tmp_path, work)


def test_the_document_describes_every_operation() -> None:
    spec = document(ROUTES)
    operations = [one for path in spec["paths"].values() for one in path.values()]
    assert len(operations) == len(ROUTES)
    assert len({one["operationId"] for one in operations}) == len(ROUTES)
    assert all(one["summary"] for one in operations)
    text = json.dumps(spec)
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in spec["components"]["schemas"], reference
