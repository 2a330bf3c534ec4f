"""A migration that is asked for, put into the store; drains and people ask the same way."""

import secrets
from typing import Any

from migrate.fleet.schema import HOSTS, MIGRATIONS
from migrate.fleet.store import Row, Store


def new_id() -> str:
    """A migration's, a drain's: short enough to be typed."""
    return secrets.token_hex(5)


async def ask_for(
    store: Store,
    *,
    migration_id: str,
    source: str,
    pid: int,
    destination: str,
    options: dict[str, Any],
    who: str,
    workload: dict[str, Any] | None = None,
    drain_id: str | None = None,
    leg: str = "",
    priority: int = 0,
) -> bool:
    """Queue it; False when it is queued already, under the same id."""
    found = workload or await read_workload(store, source, pid)
    return await store.add(
        MIGRATIONS,
        {
            "id": migration_id, "state": "queued", "source": source, "pid": pid, "destination": destination,
            "start_time": found.get("start_time"), "options": options, "workload": found, "drain_id": drain_id,
            "leg": leg, "priority": priority, "reserved_bytes": int(found.get("memory_bytes", 0)),
            "created_at": store.now(), "started_at": None, "ended_at": None, "cancel": False, "phase": "",
            "message": "", "hint": "", "result": None, "requested_by": who, "lease_owner": None, "lease_until": None,
            "fence": 0, "version": 1,
        },
    )  # fmt: skip


async def read_workload(store: Store, source: str, pid: int) -> dict[str, Any]:
    """What is known of the process, for people to recognise it later; {} when it was not seen yet."""
    row = await store.row(HOSTS, HOSTS.c.name == source)
    processes = ((row or {}).get("facts") or {}).get("processes", [])
    return next((dict(process) for process in processes if process["pid"] == pid), {})


async def reserved_on(store: Store) -> dict[str, int]:
    """Bytes that migrations under way will take, by destination."""
    found: dict[str, int] = {}
    for row in await store.rows(MIGRATIONS, MIGRATIONS.c.state.in_(("queued", "running"))):
        found[row["destination"]] = found.get(row["destination"], 0) + int(row["reserved_bytes"])
    return found


def hook_failed(row: Row) -> bool:
    """True when it is done, but the hook after it failed."""
    return bool((row["result"] or {}).get("hook"))


def moved_pid(row: Row) -> int:
    """What the process is called at its destination."""
    pids = (row["result"] or {}).get("pids") or [row["pid"]]
    return int(pids[0])
