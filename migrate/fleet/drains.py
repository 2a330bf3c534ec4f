"""Carries drains out: reads what is written down, has the scheduler decide, writes down what follows.

Every act is idempotent under the drain's fence: a leg's id is made of the drain's and its own.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from core.errors import Blocker, MigrateError, Refused, UsageError
from migrate.cli.parse import parse_rate
from migrate.drain import placement, scheduler
from migrate.drain.windows import parse_window
from migrate.fleet.checks import check_move
from migrate.fleet.hooks import Hooks
from migrate.fleet.hosts import candidate_of, look_at, workloads_of
from migrate.fleet.inventory import MoveChoices, Selector, Workload
from migrate.fleet.moves import ask_for, hook_failed, moved_pid, new_id, read_workload, reserved_on
from migrate.fleet.reach import Reach
from migrate.fleet.schema import DRAINS, HOSTS, MIGRATIONS
from migrate.fleet.store import LEASE_S, FenceLost, Row, Store

log = logging.getLogger(__name__)
OPEN_STATES: Final = ("waiting", "running", "away", "returning")
OVER: Final = ("done", "failed", "cancelled")
LOOK_S: Final = 0.5
CHECKS_AT_ONCE: Final = 4


@dataclass(frozen=True, slots=True)
class Planned:
    """A drain that is not begun: where everything goes, and the window it waits for.

    `hindrances`: by PID, what preflight has against a move now, wherever to; it is tried when its time has come.
    """

    plan: placement.Plan
    hindrances: dict[int, str]
    workloads: dict[int, Workload]
    opens_at: float | None
    closes_at: float | None

    def to_json(self) -> dict[str, Any]:
        """As the store and the API have it."""
        moves = [
            {
                "pid": move.load.pid, "name": move.load.name, "destination": move.destination,
                "begins_s": move.begins_s, "takes_s": move.takes_s, "memory_bytes": move.load.memory_bytes,
                "hindrance": self.hindrances.get(move.load.pid, ""),
            }
            for move in self.plan.moves
        ]  # fmt: skip
        unplaced = [
            {"pid": one.load.pid, "name": one.load.name, "reason": one.reason, "hint": one.hint}
            for one in self.plan.stays
        ]
        return {"moves": moves, "unplaced": unplaced, "takes_s": self.plan.takes_s}


async def plan_drain(store: Store, reach: Reach, spec: dict[str, Any], selectors: Sequence[Selector]) -> Planned:
    """Look at every host anew and plan; UsageError for an unknown host or window, Refused when it cannot be asked."""
    host = spec["host"]
    names = [row["name"] for row in await store.rows(HOSTS)]
    unknown = sorted({host, *spec["to"]} - set(names))
    if unknown:
        raise UsageError(f"host {unknown[0]}: is not in the inventory", hint="`migrate hosts` lists those that are")
    span = None
    if spec["window"]:
        span = parse_window(spec["window"]).next(datetime.fromtimestamp(store.now(), UTC))
        if span is None:
            raise UsageError(f"window {spec['window']!r}: does not open any more")
    rows = {row["name"]: row for row in await asyncio.gather(*(look_at(store, reach, name) for name in names))}
    source = rows[host]
    if source["unreachable"] or source["facts"] is None:
        raise Refused(
            [Blocker("unreachable", f"host {host}", source["unreachable"], "is it up? `migrate hosts` asks again")]
        )
    reserved = await reserved_on(store)
    workloads = {found.pid: found for found in workloads_of(source, selectors)}
    candidates = [candidate_of(row, selectors, reserved.get(name, 0)) for name, row in rows.items()]
    rate = parse_rate("bandwidth", spec["bandwidth"]) if spec["bandwidth"] else None
    wish = placement.Wish(
        tuple(spec["to"]), spec["to_labels"], spec["order"], spec["max_parallel"],
        spec["max_parallel_per_destination"], rate, span.seconds if span else None,
    )  # fmt: skip
    asker = _Asker(store, reach, host, {pid: _leg_options(found, spec) for pid, found in workloads.items()})
    plan, hindrances = await _plan_checked(
        asker, candidate_of(source, selectors), [load_of(found) for found in workloads.values()], candidates, wish
    )
    opens, closes = (span.opens.timestamp(), span.closes.timestamp()) if span else (None, None)
    return Planned(plan, hindrances, workloads, opens, closes)


@dataclass(frozen=True, slots=True)
class _Asker:
    """Asks preflight whether a process of `source` could go somewhere; some at a time."""

    store: Store
    reach: Reach
    source: str
    options: Mapping[int, Mapping[str, Any]]
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CHECKS_AT_ONCE))

    async def ask(self, move: placement.Move) -> tuple[str, str]:
        """What is against the destination, and what is against moving it at all; "" when nothing is."""
        pid = move.load.pid
        async with self.turns:
            try:
                found = await check_move(self.store, self.reach, self.source, pid, move.destination, self.options[pid])
            except UsageError as error:  # nobody has an address for it
                return error.message, ""
            except MigrateError as error:
                return "", f"preflight: {error.message}"
        return found.told(of_destination=True), found.told(of_destination=False)


async def _plan_checked(
    asker: _Asker,
    source: placement.Candidate,
    loads: Sequence[placement.Load],
    hosts: Sequence[placement.Candidate],
    wish: placement.Wish,
) -> tuple[placement.Plan, dict[int, str]]:
    """Plan, have preflight look at each move, and plan again without the destinations it refuses, until there are none.

    Kernel, registers, files and whatever else a process needs are thus there. With the plan: hindrances, see Planned.
    """
    asked: set[tuple[int, str]] = set()
    hindrances: dict[int, str] = {}
    while True:
        plan = await asyncio.to_thread(plan_all, source, loads, hosts, wish)
        new = [move for move in plan.moves if (move.load.pid, move.destination) not in asked]
        if not new:
            return plan, hindrances
        answers: dict[int, placement.Load] = {}
        for move, (against, hindrance) in zip(new, await asyncio.gather(*map(asker.ask, new)), strict=True):
            load = move.load
            asked.add((load.pid, move.destination))
            hindrances[load.pid] = hindrance
            refused = {**load.refused, move.destination: against} if against else load.refused
            answers[load.pid] = replace(load, refused=refused, settled="" if against else move.destination)
        loads = [answers.get(load.pid, load) for load in loads]


def plan_all(
    source: placement.Candidate,
    loads: Sequence[placement.Load],
    hosts: Sequence[placement.Candidate],
    wish: placement.Wish,
) -> placement.Plan:
    """With what is settled where it is, unless more of them have a place when all are placed anew."""
    plan = placement.plan(source, loads, hosts, wish)
    if not plan.stays or not any(load.settled for load in loads):
        return plan
    anew = placement.plan(source, [replace(load, settled="") for load in loads], hosts, wish)
    return anew if len(anew.stays) < len(plan.stays) else plan


def load_of(workload: Workload) -> placement.Load:
    """A workload as placement sees it."""
    selector = workload.selector
    return placement.Load(
        workload.pid, workload.name, workload.memory_bytes, selector.priority, workload.faults_per_s, selector.apart,
        selector.needs, selector.never_move, selector.pid_mode == "keep", frozenset(workload.ports),
        selector.cpu_check == "fpu",
    )  # fmt: skip


async def refuse_busy(store: Store, host: str) -> None:
    """Refused while another drain of the host is not over."""
    busy = [one["id"] for one in await store.open_drains() if one["host"] == host]
    if busy:
        hint = f"cancel it, or wait for it: migrate drain {host} --status"
        raise Refused([Blocker("draining", f"host {host}", f"is being drained already, by {busy[0]}", hint)])


async def ask_for_drain(store: Store, spec: dict[str, Any], planned: Planned, who: str) -> Row:
    """Write a drain down; the controller takes it from there."""
    options = {pid: _leg_options(found, spec) for pid, found in planned.workloads.items()}
    row = {
        "id": new_id(), "host": spec["host"], "state": "waiting", "created_at": store.now(),
        "spec": spec, "plan": {**planned.to_json(), "options": options}, "opens_at": planned.opens_at,
        "closes_at": planned.closes_at, "started_at": None, "ended_at": None, "cancel": "", "message": "",
        "requested_by": who, "lease_owner": None, "lease_until": None, "fence": 0, "version": 1,
    }  # fmt: skip
    await refuse_busy(store, spec["host"])
    await store.add(DRAINS, row)
    return row


def _leg_options(workload: Workload, spec: dict[str, Any]) -> dict[str, Any]:
    """Options of a leg; one budget of bandwidth is shared by all that run at once."""
    found = workload.selector.model_dump(include=set(MoveChoices.model_fields))
    if spec["deadline"]:
        found["deadline"] = spec["deadline"]
    if spec["bandwidth"]:
        share = parse_rate("bandwidth", spec["bandwidth"]) // spec["max_parallel"]
        found["bandwidth"] = f"{max(1, share)}B"
    return found


class Controller:
    """One coordinator's share of the drains."""

    def __init__(
        self,
        store: Store,
        owner: str,
        told: Callable[[str], None],
        wake_worker: Callable[[], None],
        hooks: Hooks | None = None,
    ) -> None:
        self._store = store
        self._owner = owner
        self._told = told
        self._wake_worker = wake_worker
        self._hooks = hooks or Hooks()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Carry out drains until cancelled; what is written down goes on elsewhere."""
        try:
            while True:
                try:
                    while (row := await self._store.lease(DRAINS, self._owner, OPEN_STATES)) is not None:
                        task = asyncio.create_task(self._carry(row), name=f"drain {row['id']}")
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
                except MigrateError as error:
                    log.error("%s", error)
                await asyncio.sleep(LOOK_S)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, row: Row) -> None:
        try:
            await self._step(row)
        except FenceLost as error:
            log.warning("%s", error)
        except Exception:
            log.exception("drain %s: left alone until its lease ends", row["id"])

    async def _step(self, row: Row) -> None:
        """Decide once and act. The lease is given back for LOOK_S, so that every drain gets its turn."""
        legs = await self._store.drain_legs(row["id"])
        actions = scheduler.decide(
            await self._view(row, legs), row["host"], [_leg(leg) for leg in legs], self._store.now()
        )
        changes: dict[str, Any] = {}
        for action in actions:
            match action:
                case scheduler.Begin():
                    await self._begin(row, action)
                case scheduler.Stop(migration_id):
                    await self._store.change(MIGRATIONS, MIGRATIONS.c.id == migration_id, cancel=True)
                case scheduler.Enter():
                    changes = await self._enter(row, await self._after_hook(row, action))
        held = {"lease_owner": self._owner, "lease_until": self._store.now() + LOOK_S}
        await self._store.write_leased(DRAINS, row, **held, **changes)
        if actions:
            self._told(row["id"])
            self._wake_worker()

    async def _view(self, row: Row, legs: Sequence[Row]) -> scheduler.Drain:
        spec, own = row["spec"], {leg["id"] for leg in legs}
        under_way = await self._store.rows(MIGRATIONS, MIGRATIONS.c.state.in_(("queued", "running")))
        host = await self._store.row(HOSTS, HOSTS.c.name == row["host"])
        steps = [scheduler.Step(move["pid"], move["destination"], move["takes_s"]) for move in row["plan"]["moves"]]
        return scheduler.Drain(
            row["state"], tuple(steps), row["opens_at"], row["closes_at"], spec["max_parallel"],
            spec["max_parallel_per_destination"], spec["on_failure"], spec["and_back"], row["cancel"],
            return_asked=host is not None and not host["cordoned"],
            busy=Counter(one["destination"] for one in under_way if one["id"] not in own),
        )  # fmt: skip

    async def _begin(self, row: Row, begin: scheduler.Begin) -> None:
        if begin.leg == "back":
            legs = await self._store.drain_legs(row["id"])
            away = next(leg for leg in legs if leg["destination"] == begin.source and moved_pid(leg) == begin.pid)
            options, name = away["options"], away["workload"].get("name", "")
        else:
            options = row["plan"]["options"].get(str(begin.pid), {})
            name = next(move["name"] for move in row["plan"]["moves"] if move["pid"] == begin.pid)
        await ask_for(
            self._store, migration_id=f"{row['id']}-{begin.leg}-{begin.source}-{begin.pid}"[:63], source=begin.source,
            pid=begin.pid, destination=begin.destination, options=options, who=f"drain {row['id']}",
            workload={**await read_workload(self._store, begin.source, begin.pid), "name": name},
            drain_id=row["id"], leg=begin.leg,
        )  # fmt: skip

    async def _after_hook(self, row: Row, enter: scheduler.Enter) -> scheduler.Enter:
        """Call the host's hook that belongs before this; the lease is kept meanwhile, however long it takes."""
        due = scheduler.hook_before(row["state"], enter.state)
        if due is None or not self._hooks.has(due[0]):
            return enter
        stage, leg = due
        await self._store.write_leased(DRAINS, row, message=f"hook {stage} is at work")
        self._told(row["id"])
        renewing = asyncio.create_task(self._renew(row), name=f"lease of {row['id']}")
        try:
            facts = {"drain": row["id"], "host": row["host"], "leg": leg}
            wrong = await self._hooks.call(stage, {**facts, "state": enter.state, "message": enter.message})
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
        return scheduler.decide_after_hook(row["state"], enter, row["spec"]["on_failure"], wrong) if wrong else enter

    async def _renew(self, row: Row) -> None:
        with contextlib.suppress(FenceLost):
            while True:
                await asyncio.sleep(LEASE_S / 3)
                await self._store.write_leased(DRAINS, row)

    async def _enter(self, row: Row, enter: scheduler.Enter) -> dict[str, Any]:
        now, state, message = self._store.now(), enter.state, enter.message
        changes: dict[str, Any] = {"state": state, "message": message or row["message"]}
        if state == "running":
            reason = f"drain {row['id']}"
            await self._store.change(HOSTS, HOSTS.c.name == row["host"], cordoned=True, cordon_reason=reason)
            changes["started_at"] = now
        if state in OVER:
            changes["ended_at"] = now
        await self._store.audit(f"drain {row['id']}", f"drain-{state}", row["host"], message=message)
        return changes


def _leg(row: Row) -> scheduler.Leg:
    return scheduler.Leg(
        row["id"], row["leg"], row["source"], row["pid"], row["destination"], row["state"], moved_pid(row),
        hook_failed(row),
    )  # fmt: skip
