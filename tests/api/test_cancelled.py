"""What somebody cancelled is told as that, and apart from what failed."""

from pathlib import Path
from typing import Any

import pytest

from migrate.api.services import Services
from migrate.fleet import drains
from tests.api.made_up import Http, MadeUp, ended, run, until

INTERRUPTED = {"event": "failed", "message": "interrupted by the user", "hint": "", "kind": "Interrupted"}


@pytest.fixture(autouse=True)
def quick_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "LOOK_S", 0.02)


def drain_of_one(folder: Path, cancel: str, body: dict[str, str]) -> dict[str, Any]:
    """A drain of one workload whose move is cancelled by a POST to `cancel`; the drain at its end."""
    found: dict[str, Any] = {}

    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        reach.deaf, reach.ending = 0, INTERRUPTED
        asked = await (await client.post("/api/v1/drains", json={"host": "a", "to": ["b"]})).json()

        async def look(ready: bool = False) -> bool:
            found.update(await (await client.get(f"/api/v1/drains/{asked['id']}")).json())
            return bool(reach.started) if ready else bool(found["ended_at"])

        await until(lambda: look(ready=True))
        path = cancel.format(drain=asked["id"], migration=reach.started[0])
        assert (await client.post(f"/api/v1{path}", json=body)).status == 200
        await until(look)

    run(folder, work)
    return found


def test_a_drain_tells_what_was_cancelled_apart_from_what_failed(tmp_path: Path) -> None:
    drain = drain_of_one(tmp_path, "/migrations/{migration}/cancel", {})
    assert (drain["state"], drain["message"]) == ("cancelled", "0 of 1 moved, 1 cancelled")
    assert (drain["cancelled"], drain["failed"], drain["left"]) == (1, 0, 0)


def test_a_drain_that_is_cancelled_counts_what_it_rolled_back_as_cancelled(tmp_path: Path) -> None:
    drain = drain_of_one(tmp_path, "/drains/{drain}/cancel", {"running": "abort"})
    assert (drain["state"], drain["message"]) == ("cancelled", "cancelled; 0 of 1 moved, 1 cancelled")
    assert (drain["cancelled"], drain["failed"]) == (1, 0)


def cancelled_move(folder: Path, ending: dict[str, Any]) -> dict[str, Any]:
    """A migration that ends so after it was cancelled, at its end."""
    found: dict[str, Any] = {}

    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        reach.deaf, reach.ending = 0, ending
        move = {"source": "a", "pid": 41, "destination": "b"}
        asked = await (await client.post("/api/v1/migrations", json=move)).json()

        async def began() -> bool:
            return bool(reach.started)

        await until(began)
        assert (await client.post(f"/api/v1/migrations/{asked['id']}/cancel")).status == 200
        found.update(await ended(client, asked["id"]))

    run(folder, work)
    return found


@pytest.mark.parametrize(
    ("ending", "told"),
    [
        (INTERRUPTED, "cancelled by local, it runs on where it was"),
        ({"event": "lost", "state": "", "message": "KeyboardInterrupt"}, "cancelled by local, it runs on where it was"),
        (
            {"event": "lost", "state": "", "message": "it ended without a word"},
            "cancelled by local, it runs on where it was",
        ),
        (
            {"event": "lost", "state": "PRECOPY", "message": "MemoryError"},
            "cancelled by local: its process ended early, the source runs on: MemoryError",
        ),
        ({"event": "failed", "message": "b: is gone", "hint": "h", "kind": "K"}, "cancelled by local: b: is gone"),
    ],
)
def test_who_cancelled_a_move_is_told_however_early_it_was(tmp_path: Path, ending: dict[str, Any], told: str) -> None:
    found = cancelled_move(tmp_path, ending)
    assert (found["state"], found["message"]) == ("cancelled", told)
