"""The hooks of a drain: called in their order with what they need to know, and one that fails counts as a failure."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from migrate.fleet import drains
from migrate.fleet.hooks import Hooks
from migrate.fleet.schema import MIGRATIONS
from tests.api.made_up import Http, MadeUp, Services, run, until
from tests.waiting import wait_until

OVER = ("done", "failed", "cancelled")
HOOK = """#!/bin/sh
what="$MIGRATE_HOOK $MIGRATE_LEG"
echo "$what $MIGRATE_HOST $MIGRATE_PID $MIGRATE_DESTINATION $MIGRATE_WORKLOAD $MIGRATE_STATE" >>{log}
[ "$what $MIGRATE_PID" != "{bad}" ] || {{ echo "no thanks"; exit 7; }}
"""


@pytest.fixture(autouse=True)
def quick_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "LOOK_S", 0.02)


def make_hooks(folder: Path, bad: str = "") -> Path:
    """All four, which write down what they hear; the one that is `bad` fails."""
    made = folder / "hooks"
    made.mkdir()
    for stage in ("before-host", "before-workload", "after-workload", "after-host"):
        (made / stage).write_text(HOOK.format(log=folder / "log", bad=bad))
        (made / stage).chmod(0o755)
    return made


def drain(folder: Path, bad: str = "", **spec: object) -> tuple[dict[str, Any], list[str], MadeUp]:
    """Drain host a of two workloads, one after the other, to its end; the drain, what the hooks heard, the hosts."""
    found: dict[str, Any] = {}
    hosts: list[MadeUp] = []

    async def work(client: Http, _services: Services, reach: MadeUp) -> None:
        hosts.append(reach)
        body = {"host": "a", "to": ["b"], "max_parallel": 1, **spec}
        asked = await (await client.post("/api/v1/drains", json=body)).json()

        async def over() -> bool:
            found.update(await (await client.get(f"/api/v1/drains/{asked['id']}")).json())
            if found["state"] == "away":
                await client.post("/api/v1/hosts/a/uncordon")
            return found["state"] in OVER

        await until(over)
        found["host_is_cordoned"] = (await (await client.get("/api/v1/hosts/a")).json())["cordoned"]

    run(folder, work, hooks=make_hooks(folder, bad), pids=(41, 42))
    log = folder / "log"
    return found, log.read_text().splitlines() if log.exists() else [], hosts[0]


def test_every_stage_is_called_once_in_its_order_there_and_back(tmp_path: Path) -> None:
    ended, log, _ = drain(tmp_path, and_back=True)
    assert ended["state"] == "done", ended
    assert log == [
        "before-host away a    running",
        "before-workload away a 41 b redis ", "after-workload away a 41 b redis done",
        "before-workload away a 42 b redis ", "after-workload away a 42 b redis done",
        "after-host away a    away",
        "before-host back a    returning",
        "before-workload back a 41 a redis ", "after-workload back a 41 a redis done",
        "before-workload back a 42 a redis ", "after-workload back a 42 a redis done",
        "after-host back a    done",
    ]  # fmt: skip


@pytest.mark.parametrize(("on_failure", "moved"), [("skip", ["42"]), ("stop", [])])
def test_a_workload_whose_hook_refuses_stays(tmp_path: Path, on_failure: str, moved: list[str]) -> None:
    ended, log, reach = drain(tmp_path, "before-workload away 41", on_failure=on_failure)
    assert ended["state"] == "failed"
    assert [name.rpartition("-")[2] for name in reach.started] == moved
    assert not any(line.startswith("after-workload away a 41") for line in log)


@pytest.mark.parametrize(("on_failure", "legs"), [("skip", ["away-41", "away-42"]), ("back", ["away-41", "back-41"])])
def test_a_hook_that_fails_after_a_move_counts_as_a_failure(tmp_path: Path, on_failure: str, legs: list[str]) -> None:
    ended, _, reach = drain(tmp_path, "after-workload away 41", on_failure=on_failure)
    assert ended["state"] == "failed" and ended["failed"] == 0
    assert [f"{name.split('-')[1]}-{name.rpartition('-')[2]}" for name in reach.started] == legs


def test_a_host_whose_hook_refuses_is_not_touched(tmp_path: Path) -> None:
    ended, log, reach = drain(tmp_path, "before-host away ", on_failure="stop")
    assert ended["state"] == "failed" and "exit code 7: no thanks" in ended["message"]
    assert len(log) == 1 and reach.started == [] and not ended["host_is_cordoned"]


def test_a_hook_that_fails_at_the_end_brings_all_back_where_that_is_asked_for(tmp_path: Path) -> None:
    ended, _, reach = drain(tmp_path, "after-host away ", on_failure="back")
    assert ended["state"] == "failed" and len(reach.started) == 4


def test_a_hook_that_others_may_change_is_not_called(tmp_path: Path) -> None:
    hooks = make_hooks(tmp_path)
    (hooks / "before-host").chmod(0o777)
    (hooks / "after-host").unlink()

    async def work(client: Http, _services: Services, _reach: MadeUp) -> None:
        body = {"host": "a", "on_failure": "stop"}
        asked = await (await client.post("/api/v1/drains", json=body)).json()
        found: dict[str, Any] = {}

        async def over() -> bool:
            found.update(await (await client.get(f"/api/v1/drains/{asked['id']}")).json())
            return found["state"] in OVER

        await until(over)
        assert found["state"] == "failed" and "may be changed by others" in found["message"]

    run(tmp_path, work, hooks=hooks)
    assert not (tmp_path / "log").exists()


def call(folder: Path, text: str, within_s: float = 60.0) -> str:
    """What is wrong with the hook `text`."""
    path = folder / "before-host"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return asyncio.run(Hooks(folder, within_s).call("before-host", {}))


def test_a_hook_may_leave_something_running(tmp_path: Path) -> None:
    assert call(tmp_path, f"sleep 1000 & echo $! >{tmp_path}/pid") == ""
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)  # ProcessLookupError, had we ended it


def test_a_hook_that_takes_too_long_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    for within_s in (0.3, 3, 30):  # until the machine is quick enough for it to have begun
        wrong = call(tmp_path, f"sleep 1000 & echo $! >{tmp_path}/pid; wait", within_s)
        assert f"took longer than {within_s:g} s" in wrong
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
    stat = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    wait_until(lambda: not stat.exists() or ") Z" in stat.read_text(), "it is ended", deadline_s=30)


def test_a_hook_that_cannot_be_executed_or_says_much_is_told_of(tmp_path: Path) -> None:
    assert call(tmp_path, "yes | head -c 200000; echo the end; exit 3").endswith("exit code 3: the end")
    (tmp_path / "before-host").chmod(0o644)
    assert "cannot be called: Permission denied" in asyncio.run(Hooks(tmp_path).call("before-host", {}))


def test_a_migration_whose_last_word_was_heard_by_a_coordinator_that_died_is_settled(tmp_path: Path) -> None:
    async def work(client: Http, services: Services, reach: MadeUp) -> None:
        body = {"source": "a", "pid": 41, "destination": "b"}
        asked = await (await client.post("/api/v1/migrations", json=body)).json()
        state: list[str] = []

        async def over() -> bool:
            found = await (await client.get(f"/api/v1/migrations/{asked['id']}")).json()
            state[:] = [found["state"]]
            return state != ["queued"] and state != ["running"]

        await until(over)
        mine = MIGRATIONS.c.id == asked["id"]
        await services.store.change(MIGRATIONS, mine, state="running", lease_until=None, lease_owner=None, result=None)
        services.wake()
        await until(over)
        assert state == ["done"] and reach.started == [asked["id"]]
        answer = await (await client.get(f"/api/v1/migrations/{asked['id']}")).text()
        assert json.loads(answer)["result"]["downtime_s"] == 0.05

    run(tmp_path, work)
