"""The store: SQLite (WAL) in a file by default, PostgreSQL by URL when several coordinators share the work.

Rows are plain dicts. Every method is one transaction. Owns leases and fences; decides nothing about migrations.
"""

import asyncio
import functools
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeAlias, TypeVar

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import ColumnElement, Connection, Table, and_, event, insert, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from migrate.errors import StoreError
from migrate.fleet.schema import AUDIT, DRAINS, EVENTS, MIGRATIONS

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")
Row: TypeAlias = dict[str, Any]
LEASE_S: Final = 10.0
FINAL_STATES: Final = ("done", "failed", "refused", "cancelled")
DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
VERSIONS: Final = Path(__file__).with_name("versions")


class FenceLost(StoreError):
    """Another coordinator has taken this over: whoever hears it stops working on it, and writes nothing."""


def _whole(
    transaction: Callable[Asked, Coroutine[Any, Any, Answer]],
) -> Callable[Asked, Coroutine[Any, Any, Answer]]:
    """Whoever is cancelled in a transaction, once or more often, goes when it is over: after LEASE_S at the latest.

    Cut off twice, SQLAlchemy closes the connection behind the caller's back with nobody waiting for it; at the end of
    the event loop, aiosqlite then waits for ever for a thread that is gone.
    """

    @functools.wraps(transaction)
    async def run(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        task = asyncio.create_task(transaction(*args, **kwargs))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            until = time.monotonic() + LEASE_S
            while not task.done() and (left := until - time.monotonic()) > 0:
                with suppress(asyncio.CancelledError):  # the first is raised again below
                    await asyncio.wait([task], timeout=left)
            task.cancel()
            raise

    return run


class Store:
    """One database. `now` gives seconds since 1970."""

    def __init__(self, engine: AsyncEngine, now: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self.now = now

    @classmethod
    async def open(cls, url: str, now: Callable[[], float] = time.time) -> "Store":
        """Connect and bring the schema up to date; StoreError says what is wrong with the URL or the database."""
        try:
            parsed = make_url(url)
            driver = DRIVERS.get(parsed.drivername, parsed.drivername)
            if driver not in DRIVERS.values():
                raise StoreError(
                    f"{parsed.drivername}: is not a database we know", hint="write sqlite:///FILE or postgresql://…"
                )
            if driver.startswith("sqlite") and parsed.database:
                Path(parsed.database).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            engine = create_async_engine(parsed.set(drivername=driver), pool_pre_ping=True)
        except (ArgumentError, OSError) as error:
            raise StoreError(
                f"database: {error}", hint="write sqlite:///FILE or postgresql://USER@HOST/NAME"
            ) from error
        if engine.dialect.name == "sqlite":
            event.listen(engine.sync_engine, "connect", _tune_sqlite)
            event.listen(engine.sync_engine, "begin", _begin_immediate)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(_upgrade)
        except CommandError as error:
            await engine.dispose()
            raise StoreError(
                f"database {parsed.render_as_string()}: {error}", hint="a newer version has made it: install that"
            ) from error
        except (SQLAlchemyError, OSError) as error:
            await engine.dispose()
            raise StoreError(f"database {parsed.render_as_string()}: {error}") from error
        return cls(engine, now)

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()

    @asynccontextmanager
    async def _begin(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as connection:
                yield connection
        except IntegrityError:
            raise
        except (SQLAlchemyError, OSError) as error:
            raise StoreError(f"database: {error}") from error

    @_whole
    async def rows(
        self,
        table: Table,
        *where: ColumnElement[bool],
        order: Sequence[ColumnElement[Any] | Any] = (),
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Row]:
        """Rows that `where` lets through."""
        query = select(table).where(*where).order_by(*order).limit(limit).offset(offset)
        async with self._begin() as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def row(self, table: Table, *where: ColumnElement[bool]) -> Row | None:
        """The first such row, None when there is none."""
        found = await self.rows(table, *where, limit=1)
        return found[0] if found else None

    @_whole
    async def add(self, table: Table, values: Mapping[str, Any]) -> bool:
        """Insert one row; False when its key is taken."""
        try:
            async with self._begin() as connection:
                await connection.execute(insert(table).values(**values))
        except IntegrityError:
            return False
        return True

    @_whole
    async def change(self, table: Table, *where: ColumnElement[bool], **values: Any) -> int:
        """Update rows; how many. A `version` column counts the changes."""
        if "version" in table.c:
            values["version"] = table.c.version + 1
        async with self._begin() as connection:
            return int((await connection.execute(update(table).where(*where).values(**values))).rowcount)

    @_whole
    async def remove(self, table: Table, *where: ColumnElement[bool]) -> int:
        """Delete rows; how many."""
        async with self._begin() as connection:
            return int((await connection.execute(table.delete().where(*where))).rowcount)

    async def audit(self, who: str, action: str, target: str, **detail: Any) -> None:
        """Append to the audit log."""
        await self.add(AUDIT, {"at": self.now(), "who": who, "action": action, "target": target, "detail": detail})

    @_whole
    async def lease(self, table: Table, owner: str, states: Sequence[str]) -> Row | None:
        """Take one row in one of `states` that nobody works on (or whose worker fell silent), the most urgent first.

        It is `owner`'s for LEASE_S, under a higher fence than ever before.
        """
        free = (table.c.lease_until.is_(None)) | (table.c.lease_until < self.now())
        order = [table.c.priority.desc()] if "priority" in table.c else []
        query = (
            select(table)
            .where(table.c.state.in_(states), free)
            .order_by(*order, table.c.created_at)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        async with self._begin() as connection:
            found = (await connection.execute(query)).mappings().first()
            if found is None:
                return None
            taken = {"lease_owner": owner, "lease_until": self.now() + LEASE_S, "fence": found["fence"] + 1}
            await connection.execute(update(table).where(table.c.id == found["id"]).values(**taken))
            return {**found, **taken}

    @_whole
    async def write_leased(self, table: Table, leased: Row, **values: Any) -> None:
        """Change a leased row and renew the lease; FenceLost when another holds it by now."""
        values["version"] = table.c.version + 1
        values.setdefault("lease_until", self.now() + LEASE_S)
        mine = and_(table.c.id == leased["id"], table.c.fence == leased["fence"])
        async with self._begin() as connection:
            changed = (await connection.execute(update(table).where(mine).values(**values))).rowcount
        if not changed:
            raise FenceLost(f"{leased['id']}: another coordinator works on it now")

    async def release(self, table: Table, leased: Row, **values: Any) -> None:
        """Change a leased row for the last time and give the lease back."""
        await self.write_leased(table, leased, lease_owner=None, lease_until=None, **values)

    @_whole
    async def add_event(self, leased: Row, number: int, body: Mapping[str, Any], **values: Any) -> None:
        """Record a migration's event and what it changes of the row, in one transaction; FenceLost as above."""
        mine = and_(MIGRATIONS.c.id == leased["id"], MIGRATIONS.c.fence == leased["fence"])
        changes = {**values, "lease_until": self.now() + LEASE_S, "version": MIGRATIONS.c.version + 1}
        row = {"migration_id": leased["id"], "number": number, "at": self.now(), "body": dict(body)}
        async with self._begin() as connection:
            if not (await connection.execute(update(MIGRATIONS).where(mine).values(**changes))).rowcount:
                raise FenceLost(f"{leased['id']}: another coordinator works on it now")
            await connection.execute(insert(EVENTS).values(**row))

    async def events_after(self, migration_id: str, number: int) -> list[Row]:
        """The events of a migration behind `number`, in their order."""
        mine = (EVENTS.c.migration_id == migration_id, EVENTS.c.number > number)
        return await self.rows(EVENTS, *mine, order=[EVENTS.c.number])

    async def drain_legs(self, drain_id: str) -> list[Row]:
        """The migrations of a drain, in the order they were made."""
        return await self.rows(MIGRATIONS, MIGRATIONS.c.drain_id == drain_id, order=[MIGRATIONS.c.created_at])

    async def open_drains(self) -> list[Row]:
        """Drains that are not over."""
        return await self.rows(DRAINS, DRAINS.c.ended_at.is_(None), order=[DRAINS.c.created_at])


def _tune_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_immediate
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "foreign_keys=ON", "busy_timeout=10000", "synchronous=FULL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":  # two coordinators that start at once
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7236451)")
    config = Config()
    config.set_main_option("script_location", str(VERSIONS.parent / "alembic").replace("%", "%%"))
    config.set_main_option("version_locations", str(VERSIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
