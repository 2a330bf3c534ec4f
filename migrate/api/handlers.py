"""What the API does, operation by operation: migrations, checks, hosts, windows, tokens, the audit log."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, Table

from core.errors import MigrateError
from migrate.api import models
from migrate.api.routes import ApiError, Call, NotFound
from migrate.api.services import make_token
from migrate.drain.windows import parse_window
from migrate.fleet import hosts
from migrate.fleet.checks import check_move
from migrate.fleet.hosts import add_host, look_at, read_selectors, workloads_of
from migrate.fleet.inventory import HostEntry, Selector, Workload, fits
from migrate.fleet.moves import ask_for, new_id
from migrate.fleet.schema import AUDIT, HOSTS, MIGRATIONS, SELECTORS, TOKENS, WINDOWS
from migrate.fleet.store import Row
from migrate.fleet.worker import find_address


class Paging(BaseModel):
    """A part of a list."""

    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0)


class MigrationQuery(Paging):
    """Which migrations, the newest first."""

    state: models.State | None = None
    source: str | None = None
    destination: str | None = None
    drain: str | None = None


class WorkloadQuery(BaseModel):
    """Which processes: patterns as in a shell, all that are given must match."""

    command: str | None = None
    user: str | None = None
    unit: str | None = None
    cgroup: str | None = None
    container: str | None = None
    pid: int | None = None


def at(seconds: float | None) -> datetime | None:
    """The store's time as the API has it."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def moment(seconds: float) -> datetime:
    """The same for a time that there always is."""
    return datetime.fromtimestamp(seconds, UTC)


def migration_model(row: Row) -> models.Migration:
    """A row as the API has it."""
    times = {name: at(row[name]) for name in ("created_at", "started_at", "ended_at")}
    return models.Migration.model_validate({**row, **times})


async def read_page(
    call: Call, table: Table, *where: ColumnElement[bool], order: list[Any]
) -> tuple[list[Row], int | None]:
    """The rows that the call's Paging asks for, and the offset of what follows, if anything does."""
    query: Paging = call.query
    rows = await call.services.store.rows(table, *where, order=order, limit=query.limit + 1, offset=query.offset)
    return rows[: query.limit], query.offset + query.limit if len(rows) > query.limit else None


async def list_migrations(call: Call, _body: None) -> models.Page[models.Migration]:
    """Migrations, the newest first."""
    query: MigrationQuery = call.query
    wanted = {"state": query.state, "source": query.source, "destination": query.destination, "drain_id": query.drain}
    where = [MIGRATIONS.c[name] == str(value) for name, value in wanted.items() if value is not None]
    order = [MIGRATIONS.c.created_at.desc(), MIGRATIONS.c.id]
    rows, following = await read_page(call, MIGRATIONS, *where, order=order)
    return models.Page[models.Migration](items=[migration_model(row) for row in rows], next=following)


async def create_migration(call: Call, body: models.NewMigration) -> models.Migration:
    """Start a migration."""
    store = call.services.store
    await find_address(store, body.source)
    await find_address(store, body.destination, as_peer=True)
    if body.source == body.destination:
        raise ApiError(422, "invalid request", "source and destination are the same host")
    there = await store.row(HOSTS, HOSTS.c.name == body.destination)
    if there is not None and there["cordoned"]:
        hint = f"migrate hosts uncordon {body.destination}"
        raise ApiError(409, "refused", f"host {body.destination}: is cordoned: {there['cordon_reason']}", hint)
    migration_id = new_id()
    await ask_for(
        store, migration_id=migration_id, source=body.source, pid=body.pid, destination=body.destination,
        options=body.options.model_dump(exclude_none=True), who=call.who, priority=body.priority,
    )  # fmt: skip
    await store.audit(call.who, "migrate", f"{body.source}/{body.pid}", id=migration_id, to=body.destination)
    call.services.news.tell(migration_id)
    call.services.wake()
    return migration_model(await _migration(call, migration_id))


async def get_migration(call: Call, _body: None) -> models.Migration:
    """One migration."""
    return migration_model(await _migration(call, call.path["id"]))


async def cancel_migration(call: Call, _body: None) -> models.Migration:
    """Ask a migration to turn back; too late once the hand-over has begun."""
    row = await _migration(call, call.path["id"])
    if row["state"] not in (models.State.QUEUED, models.State.RUNNING):
        raise ApiError(409, "too late", f"migration {row['id']} is {row['state']}")
    await call.services.store.audit(call.who, "cancel", row["id"])  # first: whoever acts upon it tells by whom
    await call.services.store.change(MIGRATIONS, MIGRATIONS.c.id == row["id"], cancel=True)
    call.services.news.tell(row["id"])
    call.services.wake()
    return migration_model(await _migration(call, row["id"]))


async def resolve_migration(call: Call, body: models.Resolve) -> models.Migration:
    """Settle a migration that is in doubt."""
    services, row = call.services, await _migration(call, call.path["id"])
    if row["state"] != models.State.IN_DOUBT:
        raise ApiError(409, "nothing to resolve", f"migration {row['id']} is {row['state']}")
    source = await find_address(services.store, row["source"])
    status, said = await services.reach.resolve(source, row["id"], body.keep)
    await services.store.audit(call.who, "resolve", row["id"], keep=body.keep, status=status, said=said)
    if status != 0:
        raise ApiError(409, "still in doubt", said, "when a host is gone for good, say which copy to keep")
    state = models.State.FAILED if "source" in said.partition("settled:")[2] else models.State.DONE
    settled = {"state": state.value, "message": said, "ended_at": services.store.now()}
    await services.store.change(MIGRATIONS, MIGRATIONS.c.id == row["id"], **settled)
    services.news.tell(row["id"])
    return migration_model(await _migration(call, row["id"]))


async def _migration(call: Call, migration_id: str) -> Row:
    row = await call.services.store.row(MIGRATIONS, MIGRATIONS.c.id == migration_id)
    if row is None:
        raise NotFound(f"migration {migration_id}")
    return row


async def check(call: Call, body: models.Check) -> models.CheckResult:
    """Everything that would be in the way; nothing is touched."""
    services, options = call.services, body.options.model_dump()
    found = await check_move(services.store, services.reach, body.source, body.pid, body.destination, options)
    blockers = [models.BlockerModel(**asdict(blocker)) for blocker in found.blockers]
    return models.CheckResult(can_move=not blockers, blockers=blockers, notices=list(found.notices))


async def list_hosts(call: Call, _body: None) -> models.Page[models.Host]:
    """All hosts, with what was seen of them last."""
    selectors = await read_selectors(call.services.store, call.services.selectors)
    rows = await call.services.store.rows(HOSTS, order=[HOSTS.c.name])
    return models.Page[models.Host](items=[host_model(row, selectors) for row in rows], next=None)


async def get_host(call: Call, _body: None) -> models.Host:
    """One host."""
    return await _host_model(call, await _host(call))


async def create_host(call: Call, body: models.NewHost) -> models.Host:
    """Add a host."""
    store = call.services.store
    if not await add_host(store, body.name, HostEntry.model_validate(body.model_dump(exclude={"name"}))):
        raise ApiError(409, "name taken", f"there is a host {body.name} already")
    await store.audit(call.who, "add-host", body.name, address=body.address)
    call.services.news.tell("hosts")
    return await _host_model(call, await look_at(store, call.services.reach, body.name))


async def remove_host(call: Call, _body: None) -> None:
    """Forget a host."""
    row = await _host(call)
    await call.services.store.remove(HOSTS, HOSTS.c.name == row["name"])
    await call.services.store.audit(call.who, "remove-host", row["name"])
    call.services.news.tell("hosts")


async def refresh_host(call: Call, _body: None) -> models.Host:
    """Look at a host now."""
    row = await _host(call)
    return await _host_model(call, await look_at(call.services.store, call.services.reach, row["name"]))


async def cordon_host(call: Call, body: models.Cordon) -> models.Host:
    """Nothing migrates to this host any more."""
    return await _set_cordon(call, True, body.reason)


async def uncordon_host(call: Call, _body: None) -> models.Host:
    """The host takes migrations again; a drain that is to come back does."""
    return await _set_cordon(call, False, "")


async def _set_cordon(call: Call, cordoned: bool, reason: str) -> models.Host:
    row, store = await _host(call), call.services.store
    await store.change(HOSTS, HOSTS.c.name == row["name"], cordoned=cordoned, cordon_reason=reason)
    await store.audit(call.who, "cordon" if cordoned else "uncordon", row["name"], reason=reason)
    call.services.news.tell("hosts")
    return await _host_model(call, await _host(call))


async def _host(call: Call) -> Row:
    row = await call.services.store.row(HOSTS, HOSTS.c.name == call.path["name"])
    if row is None:
        raise NotFound(f"host {call.path['name']}", "`migrate hosts` lists those that there are")
    return row


async def _host_model(call: Call, row: Row) -> models.Host:
    return host_model(row, await read_selectors(call.services.store, call.services.selectors))


def host_model(row: Row, selectors: Sequence[Selector]) -> models.Host:
    """A row as the API has it."""
    facts: dict[str, Any] = row["facts"] or {}
    return models.Host(
        name=row["name"], address=row["address"], peer_address=row["peer_address"], labels=row["labels"],
        cordoned=row["cordoned"], cordon_reason=row["cordon_reason"], unreachable=row["unreachable"],
        facts_at=at(row["facts_at"]), workloads=workloads_of(row, selectors),
        **{key: facts.get(key) for key in ("kernel", "version", "cpus", "load", "memory_total", "memory_available")},
    )  # fmt: skip


async def list_processes(call: Call, _body: None) -> models.Page[dict[str, Any]]:
    """All processes of a host that could be moved, whether or not a selector claims them."""
    query: WorkloadQuery = call.query
    row = await _host(call)
    found = [
        process
        for process in (row["facts"] or {}).get("processes", [])
        if all(fits(process, key, str(wanted)) for key, wanted in query.model_dump(exclude_none=True).items())
    ]
    return models.Page[dict[str, Any]](items=found, next=None)


async def find_workloads(call: Call, _body: None) -> models.Page[Workload]:
    """The workloads of all hosts."""
    rows = await call.services.store.rows(HOSTS, order=[HOSTS.c.name])
    selectors = await read_selectors(call.services.store, call.services.selectors)
    found = [workload for row in rows for workload in workloads_of(row, selectors)]
    return models.Page[Workload](items=found, next=None)


async def list_selectors(call: Call, _body: None) -> models.Page[models.PlacedSelector]:
    """What makes a process a workload: the first selector that fits has it."""
    placed = await hosts.read_placed(call.services.store, call.services.selectors)
    items = [
        models.PlacedSelector(**one.model_dump(), place=place, of_inventory=place is None) for one, place in placed
    ]
    return models.Page[models.PlacedSelector](items=items, next=None)


async def put_selector(call: Call, body: models.NewSelector) -> models.PlacedSelector:
    """Add a selector, or change it. Those of the inventory file are changed there."""
    services = call.services
    if any(selector.name == body.name for selector in services.selectors):
        raise ApiError(409, "name taken", f"selector {body.name} is in the inventory file", "change it there")
    selector = Selector.model_validate(body.model_dump(exclude={"place"}))
    place = await hosts.put_selector(services.store, selector, body.place)
    await services.store.audit(call.who, "selector", body.name, place=place)
    services.news.tell("hosts")
    return models.PlacedSelector(**selector.model_dump(), place=place)


async def remove_selector(call: Call, _body: None) -> None:
    """Forget a selector that was added: what it alone claimed is no workload any more."""
    name = call.path["name"]
    if not await call.services.store.remove(SELECTORS, SELECTORS.c.name == name):
        raise NotFound(f"selector {name}")
    await call.services.store.audit(call.who, "remove-selector", name)
    call.services.news.tell("hosts")


async def list_windows(call: Call, _body: None) -> models.Page[models.Window]:
    """Maintenance windows, and when each opens next."""
    rows = await call.services.store.rows(WINDOWS, order=[WINDOWS.c.name])
    return models.Page[models.Window](items=[_window(call, row) for row in rows], next=None)


async def put_window(call: Call, body: models.Window) -> models.Window:
    """Add a window, or change it."""
    store = call.services.store
    parse_window(body.text)
    values = {"text": body.text, "hosts": list(body.hosts)}
    if not await store.add(WINDOWS, {"name": body.name, "version": 1, **values}):
        await store.change(WINDOWS, WINDOWS.c.name == body.name, **values)
    await store.audit(call.who, "window", body.name, text=body.text)
    return _window(call, {"name": body.name, **values})


async def remove_window(call: Call, _body: None) -> None:
    """Forget a window."""
    if not await call.services.store.remove(WINDOWS, WINDOWS.c.name == call.path["name"]):
        raise NotFound(f"window {call.path['name']}")
    await call.services.store.audit(call.who, "remove-window", call.path["name"])


def _window(call: Call, row: Row) -> models.Window:
    span = parse_window(row["text"]).next(moment(call.services.store.now()))
    opens, closes = (span.opens, span.closes) if span else (None, None)
    return models.Window(name=row["name"], text=row["text"], hosts=row["hosts"], opens_at=opens, closes_at=closes)


async def list_tokens(call: Call, _body: None) -> models.Page[models.Token]:
    """Who has a token."""
    rows = await call.services.store.rows(TOKENS, order=[TOKENS.c.name])
    return models.Page[models.Token](items=[_token(row) for row in rows], next=None)


async def create_token(call: Call, body: models.NewToken) -> models.Token:
    """Make a token; its text is told this once."""
    store = call.services.store
    text = await make_token(store, body.name, body.role)
    if text is None:
        raise ApiError(409, "name taken", f"there is a token for {body.name} already", "remove it first")
    await store.audit(call.who, "add-token", body.name, role=body.role)
    row = await store.row(TOKENS, TOKENS.c.name == body.name)
    if row is None:
        raise MigrateError(f"token {body.name}: was removed at once")
    return _token(row).model_copy(update={"token": text})


async def remove_token(call: Call, _body: None) -> None:
    """Take a token away."""
    if not await call.services.store.remove(TOKENS, TOKENS.c.name == call.path["name"]):
        raise NotFound(f"token {call.path['name']}")
    await call.services.store.audit(call.who, "remove-token", call.path["name"])


def _token(row: Row) -> models.Token:
    return models.Token(
        name=row["name"], role=row["role"], created_at=moment(row["created_at"]), used_at=at(row["used_at"])
    )


async def list_audit(call: Call, _body: None) -> models.Page[models.AuditEntry]:
    """Who did what, the newest first."""
    rows, following = await read_page(call, AUDIT, order=[AUDIT.c.number.desc()])
    entries = [models.AuditEntry(**{**row, "at": moment(row["at"])}) for row in rows]
    return models.Page[models.AuditEntry](items=entries, next=following)
