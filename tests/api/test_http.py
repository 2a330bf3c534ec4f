"""The API's manners, against a server in this process whose hosts are made up."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from migrate.api.app import ROUTES
from migrate.api.guards import TokenGuard
from migrate.api.models import Role
from migrate.api.openapi import document
from migrate.api.services import Services, make_token
from migrate.fleet.hosts import look_at
from migrate.fleet.schema import TOKENS
from tests.api.made_up import Http, MadeUp, ended, run, until

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


def test_a_wish_to_cancel_that_comes_too_early_is_told_again(tmp_path: Path) -> None:
    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        reach.deaf, reach.ending = 1, {"event": "failed", "message": "interrupted", "hint": "", "kind": "K"}
        asked = await (await client.post("/api/v1/migrations", json=MOVE)).json()

        async def began() -> bool:
            return asked["id"] in reach.started

        await until(began)
        await client.post(f"/api/v1/migrations/{asked['id']}/cancel")
        assert (await ended(client, asked["id"]))["state"] == "cancelled"
        assert reach.cancelled == [asked["id"]] * 2

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
        ("/migrations", {**MOVE, "pid": True}, 422),
        ("/migrations", {**MOVE, "pid": "1"}, 422),
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


def test_selectors_of_the_api_are_asked_before_or_after_those_of_the_inventory(tmp_path: Path) -> None:
    async def names(client: Http) -> set[str]:
        return {one["name"] for one in (await (await client.get("/api/v1/workloads")).json())["items"]}

    async def work(client: Http, _services: Services, _reach: MadeUp) -> None:
        assert await names(client) == {"redis"}
        mine = {"name": "mine", "user": "redis", "file_locks": True}
        added = await client.post("/api/v1/selectors", json=mine)
        assert added.status == 200 and (await added.json())["place"] == 0
        assert await names(client) == {"redis"}
        await client.post("/api/v1/selectors", json={**mine, "place": -1})
        assert await names(client) == {"mine"}
        changed = await (await client.post("/api/v1/selectors", json={**mine, "tcp": "close"})).json()
        assert (changed["place"], changed["tcp"]) == (-1, "close")
        listed = (await (await client.get("/api/v1/selectors")).json())["items"]
        told = [(one["name"], one["place"], one["of_inventory"]) for one in listed]
        assert told == [("mine", -1, False), ("redis", None, True)]
        assert (await client.delete("/api/v1/selectors/mine")).status == 204
        assert (await client.delete("/api/v1/selectors/mine")).status == 404
        assert await names(client) == {"redis"}
        assert (await client.post("/api/v1/selectors", json={"name": "x", "surprise": 1})).status == 422
        assert (await client.post("/api/v1/selectors", json={"name": "redis", "user": "x"})).status == 409

    run(tmp_path, work)


def test_a_host_that_is_being_drained_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        first = await client.post("/api/v1/drains", json={"host": "a", "window": "Sat 02:00-04:00 UTC"})
        assert first.status == 201, await first.text()
        asked = len(reach.checked)
        again = await client.post("/api/v1/drains", json={"host": "a"})
        assert again.status == 409 and len(reach.checked) == asked

    run(tmp_path, work)


def plan_of(tmp_path: Path, prepare: Callable[[MadeUp], None], pids: Sequence[int] = (41,)) -> tuple[Any, MadeUp]:
    """The plan of a drain of host a, and the hosts that were asked."""
    found: list[Any] = []

    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        prepare(reach)
        drain = await (await client.post("/api/v1/drains", json={"host": "a", "dry_run": True})).json()
        found.extend((drain["plan"], reach))

    run(tmp_path, work, pids=pids)
    plan, reach = found
    return plan, reach


def test_a_drain_sends_nothing_where_preflight_says_no(tmp_path: Path) -> None:
    """And asks a host once about a process, however often it plans."""

    def prepare(reach: MadeUp) -> None:
        reach.unfit = {"root@b"}

    plan, reach = plan_of(tmp_path, prepare, pids=(41, 42, 43))
    assert plan["unplaced"] == [] and {move["destination"] for move in plan["moves"]} == {"c"}
    asked = [tuple(words[:2]) for words in reach.checked]
    assert len(asked) == len(set(asked)) and ("41", "root@c") in asked


def test_a_workload_that_may_do_without_instructions_is_planned_where_they_lack(tmp_path: Path) -> None:
    async def work(client: Http, services: Services, reach: MadeUp) -> None:
        reach.lacking = {"b", "c"}
        await asyncio.gather(*(look_at(services.store, reach, name) for name in "abc"))
        body = {"host": "a", "dry_run": True}
        plan = (await (await client.post("/api/v1/drains", json=body)).json())["plan"]
        assert plan["moves"] == [] and "CPU lacks avx" in plan["unplaced"][0]["reason"]
        daring = {"name": "daring", "user": "redis", "cpu_check": "fpu", "place": -1}
        assert (await client.post("/api/v1/selectors", json=daring)).status == 200
        plan = (await (await client.post("/api/v1/drains", json=body)).json())["plan"]
        assert len(plan["moves"]) == 1 and "--cpu-check" in reach.checked[-1] and "fpu" in reach.checked[-1]

    run(tmp_path, work)


def test_what_no_host_takes_stays_with_what_preflight_says_of_each(tmp_path: Path) -> None:
    def prepare(reach: MadeUp) -> None:
        reach.unfit = {"root@b", "root@c"}

    plan, _ = plan_of(tmp_path, prepare)
    [stays] = plan["unplaced"]
    assert plan["moves"] == [] and stays["reason"].count("file /x: is missing") >= 1
    assert "b" in stays["reason"] and "c" in stays["reason"]


def test_what_is_against_moving_at_all_is_told_and_planned_all_the_same(tmp_path: Path) -> None:
    """A connection may be gone by then."""

    def prepare(reach: MadeUp) -> None:
        reach.against = [{"code": "tcp", "subject": "fd 7", "reason": "is connected", "hint": None}]

    plan, reach = plan_of(tmp_path, prepare)
    [move] = plan["moves"]
    assert move["hindrance"] == "fd 7: is connected" and len(reach.checked) == 1


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
