"""What is known of the hosts: the inventory put into the store, looked at again and again, and read back."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from core import INSTRUCTION_FLAGS
from core.errors import MigrateError
from migrate.drain.placement import Candidate
from migrate.fleet.inventory import HostEntry, Inventory, Selector, Workload, find_workloads
from migrate.fleet.reach import Reach
from migrate.fleet.schema import HOSTS, SELECTORS
from migrate.fleet.store import Row, Store
from migrate.fleet.worker import find_address

log = logging.getLogger(__name__)
LOOK_EVERY_S: Final = 15.0
ASK_WITHIN_S: Final = 30.0


async def add_host(store: Store, name: str, entry: HostEntry) -> bool:
    """A new host; False when there is one of this name."""
    unseen = {"cordoned": False, "cordon_reason": "", "facts": None, "facts_at": None, "unreachable": "", "version": 1}
    return await store.add(HOSTS, {"name": name, **_columns(entry), **unseen})


async def load_inventory(store: Store, inventory: Inventory) -> None:
    """Every host of the file is in the store afterwards, as the file has it; others stay."""
    for name, entry in inventory.hosts.items():
        if not await add_host(store, name, entry):
            await store.change(HOSTS, HOSTS.c.name == name, **_columns(entry))


async def put_selector(store: Store, selector: Selector, place: int | None) -> int:
    """Add it, or change the one of its name; its place, which None leaves as it is (0 for a new one)."""
    body = selector.model_dump(mode="json", exclude_defaults=True)
    while True:
        known = await store.row(SELECTORS, SELECTORS.c.name == selector.name)
        chosen = place if place is not None else known["place"] if known else 0
        values = {"place": chosen, "body": body}
        if known is None and await store.add(SELECTORS, {"name": selector.name, "version": 1, **values}):
            return chosen
        if await store.change(SELECTORS, SELECTORS.c.name == selector.name, **values):
            return chosen


async def read_placed(store: Store, of_inventory: Sequence[Selector]) -> list[tuple[Selector, int | None]]:
    """All with their places, in the order in which they are asked: those of the inventory file, which have none,
    between the others' negative places and the rest."""
    rows = await store.rows(SELECTORS, order=[SELECTORS.c.place, SELECTORS.c.name])
    added: list[tuple[Selector, int | None]] = [(_stored(row), row["place"]) for row in rows]
    before = sum(row["place"] < 0 for row in rows)
    return [*added[:before], *((selector, None) for selector in of_inventory), *added[before:]]


async def read_selectors(store: Store, of_inventory: Sequence[Selector]) -> list[Selector]:
    """As read_placed, without the places."""
    return [selector for selector, _ in await read_placed(store, of_inventory)]


def _stored(row: Row) -> Selector:
    """As the store has it; what a newer coordinator may have added is left out."""
    return Selector.model_validate({key: value for key, value in row["body"].items() if key in Selector.model_fields})


def _columns(entry: HostEntry) -> dict[str, object]:
    return {
        "address": entry.address,
        "peer_address": entry.peer_address,
        "route": [list(pair) for pair in entry.route],
        "labels": entry.labels,
    }


async def look_at(store: Store, reach: Reach, name: str) -> Row:
    """Ask the host for its facts and write them down, or why it could not be asked."""
    try:
        host = await find_address(store, name)
        async with asyncio.timeout(ASK_WITHIN_S):
            facts = await reach.facts(host)
        await store.change(HOSTS, HOSTS.c.name == name, facts=facts, facts_at=store.now(), unreachable="")
    except TimeoutError:
        await store.change(HOSTS, HOSTS.c.name == name, unreachable=f"no answer within {ASK_WITHIN_S:.0f} s")
    except MigrateError as error:
        await store.change(HOSTS, HOSTS.c.name == name, unreachable=error.message)
    return await store.row(HOSTS, HOSTS.c.name == name) or {}


async def keep_looking(store: Store, reach: Reach, told: Callable[[str], None]) -> None:
    """Look at all hosts, for ever."""
    while True:
        try:
            names = [row["name"] for row in await store.rows(HOSTS)]
            await asyncio.gather(*(look_at(store, reach, name) for name in names))
            told("hosts")
        except MigrateError as error:
            log.error("%s", error)
        await asyncio.sleep(LOOK_EVERY_S)


def workloads_of(row: Row, selectors: Iterable[Selector]) -> list[Workload]:
    """The workloads seen on a host."""
    return find_workloads(row["name"], (row["facts"] or {}).get("processes", []), selectors)


def candidate_of(row: Row, selectors: Sequence[Selector], reserved_bytes: int = 0) -> Candidate:
    """The host as placement sees it; one that was never seen is unreachable."""
    facts = row["facts"]
    if facts is None:
        return Candidate(row["name"], row["labels"], unreachable=row["unreachable"] or "was not looked at yet")
    groups = {found.selector.apart for found in workloads_of(row, selectors) if found.selector.apart}
    return Candidate(
        row["name"],
        row["labels"],
        int(facts["memory_available"]) - reserved_bytes,
        frozenset(facts["cpu_flags"]) & INSTRUCTION_FLAGS,
        bool(row["cordoned"]),
        row["unreachable"],
        frozenset(group for group in groups if group),
        frozenset(int(process["pid"]) for process in facts["processes"]),
        frozenset(int(port) for port in facts.get("ports", ())),
    )
