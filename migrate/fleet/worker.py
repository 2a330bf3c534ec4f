"""Works on migrations: leases one, has its source host start it, records what it tells, until it is over.

Any number of coordinators may do so on one store. Whoever dies loses its lease, and the next one goes on where the
record ends: the host starts a migration once however often it is asked, and tells its events again from any number.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

from core.errors import MigrateError, UsageError
from migrate.agent import WITHOUT_A_WORD
from migrate.errors import TransportError
from migrate.fleet.hooks import Hooks, Stage
from migrate.fleet.inventory import LOCAL
from migrate.fleet.reach import Address, Reach
from migrate.fleet.schema import AUDIT, HOSTS, MIGRATIONS
from migrate.fleet.store import LEASE_S, FenceLost, Row, Store
from migrate.machine import State

log = logging.getLogger(__name__)
ACTIVE: Final = ("queued", "running")
LOOK_S: Final = 1.0
RETRY_AT_MOST_S: Final = 15.0
# The host's word for how it ended → ours.
ENDINGS: Final = {"done": "done", "failed": "failed", "blocked": "refused", "in_doubt": "in_doubt"}
# Options of a migration that become options of the command, where they are given.
OPTIONS: Final = {
    "tcp": "--tcp", "pid_mode": "--pid", "max_downtime": "--max-downtime", "deadline": "--deadline",
    "bandwidth": "--bandwidth", "compress": "--compress", "track": "--track", "cpu_check": "--cpu-check",
    "tty": "--tty",
}  # fmt: skip
FLAGS: Final = {
    "shell_job": "--shell-job", "ext_unix_sk": "--ext-unix-sk", "file_locks": "--file-locks",
    "link_remap": "--link-remap",
}  # fmt: skip


class Worker:
    """One coordinator's share of the work. `told` is called with the id of every migration that changed, `count` with
    every event that was recorded."""

    def __init__(
        self,
        store: Store,
        reach: Reach,
        owner: str,
        told: Callable[[str], None],
        count: Callable[[str, dict[str, Any]], None] = lambda _id, _body: None,
        *,
        hooks: Hooks | None = None,
        at_most: int = 32,
    ) -> None:
        self._store = store
        self._reach = reach
        self._owner = owner
        self._told = told
        self._count = count
        self._hooks = hooks or Hooks()
        self._at_most = at_most
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """There is something to do: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. What is running then goes on at its host."""
        try:
            while True:
                await self._take_all()
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take_all(self) -> None:
        try:
            while len(self._tasks) < self._at_most:
                row = await self._store.lease(MIGRATIONS, self._owner, ACTIVE)
                if row is None:
                    return
                task = asyncio.create_task(self._work(row), name=f"migration {row['id']}")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        except MigrateError as error:
            log.error("%s", error)

    async def _work(self, row: Row) -> None:
        """One migration to its end. A lost fence means that somebody else does it by now."""
        job = _Job(self._store, self._reach, row, self._told, self._count, self._hooks)
        renewing = asyncio.create_task(job.renew(), name=f"lease of {row['id']}")
        try:
            await job.run()
        except FenceLost as error:
            log.warning("%s", error)
        except Exception:
            log.exception("migration %s: left alone until its lease ends", row["id"])
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            self._wake.set()


class _Job:
    def __init__(
        self,
        store: Store,
        reach: Reach,
        row: Row,
        told: Callable[[str], None],
        count: Callable[[str, dict[str, Any]], None],
        hooks: Hooks,
    ) -> None:
        self._store = store
        self._reach = reach
        self._hooks = hooks
        self._row = row
        self._told = told
        self._count = count
        self._cancelled = False

    async def renew(self) -> None:
        """Keep the lease, and pass on a wish to cancel."""
        with contextlib.suppress(FenceLost):
            while True:
                await asyncio.sleep(min(LOOK_S, LEASE_S / 3))
                await self._store.write_leased(MIGRATIONS, self._row)
                row = await self._store.row(MIGRATIONS, MIGRATIONS.c.id == self._row["id"])
                if row is not None and row["cancel"] and row["state"] == "running" and not self._cancelled:
                    source, _there = await self._hosts()
                    with contextlib.suppress(TransportError):
                        self._cancelled = await self._reach.cancel(source, row["id"])

    async def run(self) -> None:
        row = self._row
        if row["cancel"] and row["state"] == "queued":
            return await self._end("cancelled", await self._told_unbegun())
        try:
            source, there = await self._hosts()
        except UsageError as error:
            return await self._end("refused", error.message, error.hint)
        told = await self._store.events_after(row["id"], 0)
        if told and await self._settle(told[-1]["body"]):  # whoever heard its last word died before acting on it
            return None
        known = len(told)
        if row["state"] == "queued":
            if wrong := await self._hook("before-workload"):
                return await self._end("refused", wrong, "the hook decides; it runs on where it was")
            asked = await self._store.row(MIGRATIONS, MIGRATIONS.c.id == row["id"])
            if asked is not None and asked["cancel"]:
                return await self._end("cancelled", await self._told_unbegun())
            await self._store.write_leased(MIGRATIONS, row, state="running", started_at=self._store.now())
            row["state"] = "running"
            self._told(row["id"])
        arguments = move_arguments(row["pid"], there, row["options"])
        wait_s = 0.5
        while True:
            try:
                await self._reach.start(source, row["id"], arguments)
                async for body in self._reach.follow(source, row["id"], known):
                    known += 1
                    wait_s = 0.5
                    if await self._record(known, body):
                        return None
            except TransportError as error:
                await self._store.write_leased(
                    MIGRATIONS, row, message=f"{source.name} cannot be asked: {error.message}"
                )
                self._told(row["id"])
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_AT_MOST_S)

    async def _record(self, number: int, body: dict[str, Any]) -> bool:
        """Write one event down; True when it was the last."""
        name = body.get("event")
        changes: dict[str, Any] = {"message": ""}
        if name == "phase_started":
            changes["phase"] = str(body["phase"])
        await self._store.add_event(self._row, number, body, **changes)
        self._told(self._row["id"])
        self._count(self._row["id"], body)
        return await self._settle(body)

    async def _settle(self, body: dict[str, Any]) -> bool:
        """End it when this event does; True when it did."""
        name = body.get("event")
        if name == "lost":
            await self._end(*lost_ending(body), interrupted=was_interrupted(body))
        elif name in ENDINGS:
            await self._finish(ENDINGS[str(name)], body)
        return name == "lost" or name in ENDINGS

    async def _finish(self, state: str, body: dict[str, Any]) -> None:
        message, hint = str(body.get("message") or body.get("reason") or ""), str(body.get("hint") or "")
        if state == "refused":
            message = "; ".join(f"{one['subject']}: {one['reason']}" for one in body["blockers"])
            hint = "; ".join(dict.fromkeys(one["hint"] for one in body["blockers"] if one["hint"]))
        if state == "in_doubt":
            hint = str(body.get("command", ""))
        result = {key: body[key] for key in body if key not in ("event", "migration_id")} if state == "done" else None
        await self._end(state, message, hint, result, interrupted=body.get("kind") == "Interrupted")

    async def _end(
        self, state: str, message: str = "", hint: str | None = None, result: Any = None, *, interrupted: bool = False
    ) -> None:
        """`interrupted`: the wish to cancel is all that ended it, if there was one."""
        asked = await self._store.row(MIGRATIONS, MIGRATIONS.c.id == self._row["id"])
        if state in ("failed", "refused") and asked is not None and asked["cancel"]:
            state, told = "cancelled", f"cancelled by {await find_canceller(self._store, self._row)}"
            message, hint = (f"{told}, it runs on where it was", "") if interrupted else (f"{told}: {message}", hint)
        if self._row["state"] == "running" and (wrong := await self._hook("after-workload", state, message)):
            result = {**result, "hook": wrong} if result else None
            message = "; ".join(part for part in (message, wrong) if part)
        await self._store.release(
            MIGRATIONS, self._row, state=state, message=message, hint=hint or "", result=result,
            ended_at=None if state == "in_doubt" else self._store.now(),
        )  # fmt: skip
        self._told(self._row["id"])

    async def _told_unbegun(self) -> str:
        return f"cancelled by {await find_canceller(self._store, self._row)} before it began"

    async def _hook(self, stage: Stage, state: str = "", message: str = "") -> str:
        """What is wrong, "" when nothing is; a migration that no drain asked for has no hooks."""
        row = self._row
        if not row["drain_id"]:
            return ""
        return await self._hooks.call(
            stage,
            {
                "drain": row["drain_id"], "leg": row["leg"], "id": row["id"], "source": row["source"],
                "destination": row["destination"], "host": row["source" if row["leg"] == "away" else "destination"],
                "pid": row["pid"], "workload": row["workload"].get("name", ""), "state": state, "message": message,
                "command": row["workload"].get("command", ""),
            },
        )  # fmt: skip

    async def _hosts(self) -> tuple[Address, Address]:
        return (
            await find_address(self._store, self._row["source"]),
            await find_address(self._store, self._row["destination"], as_peer=True),
        )


def lost_ending(body: dict[str, Any]) -> tuple[str, str]:
    """(state, message) of a migration whose process ended without a word, by what its journal says."""
    state, said = str(body.get("state", "")), str(body.get("message", ""))
    if state == State.DONE:
        return "done", "its process ended before it could tell; the journal says that it is done"
    if state in (State.HANDING_OVER, State.HANDED_OVER, State.IN_DOUBT):
        return "in_doubt", f"its process ended while the journal said {state}: {said}"
    return "failed", f"its process ended early, the source runs on: {said}"


def was_interrupted(lost: dict[str, Any]) -> bool:
    """Whether what is known of the end of a process fits a signal that came before it could turn back in order."""
    said = str(lost.get("message", ""))
    return said in WITHOUT_A_WORD or "interrupt" in said.lower()  # Python's own word for it, and ours


async def find_canceller(store: Store, row: Row) -> str:
    """Who asked that the migration be cancelled, or else its drain; the last who did."""
    theirs = (AUDIT.c.action == "cancel") & (AUDIT.c.target == row["id"])
    its_drain = (AUDIT.c.action == "cancel-drain") & (AUDIT.c.target == row["drain_id"])
    found = await store.rows(AUDIT, theirs | its_drain, order=[AUDIT.c.action, AUDIT.c.number.desc()], limit=1)
    return str(found[0]["who"]) if found else "an operator"


async def find_address(store: Store, name: str, *, as_peer: bool = False) -> Address:
    """The host called `name`; UsageError when there is none, or none that other hosts could reach."""
    row = await store.row(HOSTS, HOSTS.c.name == name)
    if row is None:
        raise UsageError(f"host {name}: is not in the inventory", hint="`migrate hosts` lists those that are")
    address = row["peer_address"] or row["address"] if as_peer else row["address"]
    if as_peer and address == LOCAL:
        raise UsageError(f"host {name}: other hosts have no address for it", hint="give it a peer_address")
    return Address(name, address, tuple((str(key), str(value)) for key, value in row["route"]))


def move_arguments(pid: int, there: Address, options: dict[str, Any]) -> Sequence[str]:
    """What `migrate` is called with at the source."""
    words = [str(pid), there.address]
    for key, option in OPTIONS.items():
        if options.get(key):
            words += [option, str(options[key])]
    words += [flag for key, flag in FLAGS.items() if options.get(key)]
    for path in options.get("shared") or ():
        words += ["--shared", str(path)]
    for name, value in there.route:
        if name == "remote_command" and value != "migrate":
            words += ["--remote-command", value]
    return words
