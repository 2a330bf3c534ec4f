"""The store: its steps make the schema that the code means, and a lease is one worker's at a time."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from migrate.errors import StoreError
from migrate.fleet.moves import ask_for
from migrate.fleet.schema import METADATA, MIGRATIONS, SELECTORS
from migrate.fleet.store import LEASE_S, FenceLost, Store


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_store(folder: Path, work: Callable[[Store, Clock], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = Clock()
        store = await Store.open(f"sqlite:///{folder}/fleet.db", clock)
        try:
            await work(store, clock)
        finally:
            await store.close()

    asyncio.run(run())


async def queue(store: Store, migration_id: str, priority: int = 0) -> None:
    await ask_for(
        store, migration_id=migration_id, source="a", pid=1, destination="b", options={}, who="t", workload={"x": 1},
        priority=priority,
    )  # fmt: skip


def edit(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "fleet.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_store_of_the_first_version_gets_what_it_lacks_and_keeps_what_it_has(tmp_path: Path) -> None:
    async def fill(store: Store, _clock: Clock) -> None:
        await queue(store, "m1")

    async def look(store: Store, _clock: Clock) -> None:
        assert [row["id"] for row in await store.rows(MIGRATIONS)] == ["m1"]
        assert await store.rows(SELECTORS) == []

    with_store(tmp_path, fill)
    edit(tmp_path, "DROP TABLE selectors", "UPDATE alembic_version SET version_num = '0001'")
    with_store(tmp_path, look)


def test_a_store_of_a_version_to_come_is_an_error_with_a_hint(tmp_path: Path) -> None:
    async def nothing(_store: Store, _clock: Clock) -> None:
        pass

    with_store(tmp_path, nothing)
    edit(tmp_path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="9999") as caught:
        with_store(tmp_path, nothing)
    assert "newer version" in (caught.value.hint or "")


def test_the_steps_make_the_schema_that_the_code_means(tmp_path: Path) -> None:
    async def nothing(_store: Store, _clock: Clock) -> None:
        pass

    with_store(tmp_path, nothing)
    engine = create_engine(f"sqlite:///{tmp_path}/fleet.db")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


def test_a_lease_is_one_workers_until_it_ends_and_then_the_old_fence_writes_nothing(tmp_path: Path) -> None:
    async def work(store: Store, clock: Clock) -> None:
        await queue(store, "m1")
        mine = await store.lease(MIGRATIONS, "me", ["queued"])
        assert mine is not None and await store.lease(MIGRATIONS, "you", ["queued"]) is None
        clock.now += LEASE_S + 1
        yours = await store.lease(MIGRATIONS, "you", ["queued"])
        assert yours is not None and yours["fence"] > mine["fence"]
        with pytest.raises(FenceLost):
            await store.write_leased(MIGRATIONS, mine, phase="late")
        with pytest.raises(FenceLost):
            await store.add_event(mine, 1, {"event": "late"})
        await store.add_event(yours, 1, {"event": "started"}, phase="connect")
        [event] = await store.events_after("m1", 0)
        row = await store.row(MIGRATIONS, MIGRATIONS.c.id == "m1")
        assert event["body"] == {"event": "started"} and row is not None and row["phase"] == "connect"

    with_store(tmp_path, work)


def test_the_most_urgent_is_leased_first(tmp_path: Path) -> None:
    async def work(store: Store, clock: Clock) -> None:
        for number, priority in enumerate((0, 5, 1)):
            clock.now += 1
            await queue(store, f"m{number}", priority)
        order = [(await store.lease(MIGRATIONS, "me", ["queued"]) or {})["id"] for _ in range(3)]
        assert order == ["m1", "m2", "m0"]

    with_store(tmp_path, work)


@pytest.mark.timeout(120)
def test_whoever_is_cancelled_leaves_no_transaction_behind(tmp_path: Path) -> None:
    async def work(store: Store, _clock: Clock) -> None:
        await queue(store, "m1")
        row = await store.lease(MIGRATIONS, "me", ["queued"])
        assert row is not None
        steps = (
            lambda: store.rows(MIGRATIONS), lambda: store.change(MIGRATIONS, phase="x"),
            lambda: store.lease(MIGRATIONS, "me", ["queued"]), lambda: store.write_leased(MIGRATIONS, row, phase="y"),
        )  # fmt: skip
        delays = [n * 0.001 for n in range(5)]  # seconds: before, in, after
        for first, second, step in product(delays, delays, steps):
            asked = asyncio.create_task(step())
            for delay in (first, first + second):
                asyncio.get_running_loop().call_later(delay, asked.cancel)
            await asyncio.wait([asked])
            assert asyncio.all_tasks() == {asyncio.current_task()}
        assert await store.change(MIGRATIONS, phase="y") == 1  # it still works

    with_store(tmp_path, work)


def test_an_id_is_queued_once(tmp_path: Path) -> None:
    async def work(store: Store, _clock: Clock) -> None:
        await queue(store, "m1")
        await queue(store, "m1")
        assert len(await store.rows(MIGRATIONS)) == 1

    with_store(tmp_path, work)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite:////proc/none/x.db"])
def test_a_database_that_cannot_be_is_an_error_with_a_reason(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        asyncio.run(Store.open(url))
    assert "database" in caught.value.message
