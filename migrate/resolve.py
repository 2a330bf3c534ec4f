"""Settling what is in doubt: by the destination's journal, or by the operator's word; never by a guess.

`settle` goes forward after HANDING_OVER; `resolve` is `migrate resolve ID`, from any state a journal can be left in.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from core.errors import Blocker, MigrateError
from migrate.engine import Peer
from migrate.errors import OutOfOrder, TransportError, Unsettled
from migrate.journal import Entry, Journal, Role, read_boot_id
from migrate.keeper.parked import Parked
from migrate.machine import CopyState, Event, State, can_roll_back
from migrate.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION, VERSION
from migrate.pb import control_pb2 as pb
from migrate.world import MigrationRequest

ANSWER_LIMIT_S = 10.0
START_LIMIT_S = 120.0  # of who has to be started first, on a slow or busy host
RECONNECT_S = 30.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0
TAKEN = ("pid-taken", "port-taken")  # codes of blockers


class Keep(StrEnum):
    """The operator's word on which copy is to run."""

    SOURCE = "source"
    DESTINATION = "destination"


class Reach(Protocol):
    """The way back to a destination that knows the migration."""

    async def attach(self, migration_id: str) -> Peer:
        """`migrate dest --attach ID` over a fresh connection; TransportError or OSError when there is no way."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What settling needs: the journal, the way there, the acts upon our own frozen tree, and time."""

    journal: Journal
    reach: Reach
    parked: Parked
    sleep: Callable[[float], Awaitable[None]]
    now: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Settled:
    """How it came out; `text` says it to a person."""

    state: State
    text: str


async def greet(peer: Peer, limit_s: float = START_LIMIT_S) -> pb.HelloAnswer:
    """The handshake that every connection begins with."""
    hello = pb.Hello(protocol_min=PROTOCOL_OLDEST, protocol_max=PROTOCOL_VERSION, version=VERSION)
    return await peer.ask(hello, pb.HelloAnswer, timeout_s=limit_s)


async def settle(means: Means, migration_id: str, limit_s: float = RECONNECT_S) -> pb.Resumed:
    """After HANDING_OVER: reconnect until the destination says, and its journal holds, that the copy runs.

    Unsettled when it does not say so within `limit_s`, or has no copy that could run.
    """
    deadline = means.now() + limit_s
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return await _resume_there(means.reach, migration_id)
        except Unsettled:
            raise
        except (MigrateError, OSError) as error:
            if means.now() + pause_s >= deadline:
                raise Unsettled(f"destination: no answer for {limit_s:g} s: {error}") from error
        await means.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


async def _resume_there(reach: Reach, migration_id: str) -> pb.Resumed:
    peer = await reach.attach(migration_id)
    try:
        await greet(peer, RECONNECT_S)
        status = await peer.ask(pb.Status(migration_id=migration_id), pb.StatusAnswer, timeout_s=ANSWER_LIMIT_S)
        if status.state == CopyState.RESUMED:
            return pb.Resumed()
        if status.state in (CopyState.READY, CopyState.RESUMING):
            return await peer.ask(pb.Resume(migration_id=migration_id), pb.Resumed, timeout_s=ANSWER_LIMIT_S)
        raise Unsettled(
            f"destination: has no copy that could run: {status.state or 'it knows no such migration'}",
            hint="look there; if no copy runs there: migrate resolve ID --keep source",
        )
    finally:
        await peer.close()


def release_parked(means: Means, migration_id: str) -> None:
    """The destination runs: kill our frozen tree, between the two entries that say so. For when no keeper is left."""
    entry = means.journal.require(migration_id, Role.SOURCE)
    if entry.state == State.DONE:
        return
    if entry.state != State.HANDED_OVER:
        entry = means.journal.advance(migration_id, Event.RESUMED)
    if _is_of_this_boot(entry):
        means.parked.kill(entry.cgroup)
    means.journal.advance(migration_id, Event.RELEASED)


def thaw_parked(means: Means, migration_id: str, reason: str) -> None:
    """No Resume was ever sent: journal that with its reason and let our tree run. For when no keeper is left."""
    entry = means.journal.require(migration_id, Role.SOURCE)
    if not can_roll_back(State(entry.state)):
        raise OutOfOrder(f"migration {migration_id}: cannot be rolled back: it is {entry.state}")
    try:
        means.journal.roll_back(migration_id, reason)
    finally:  # a full disk is no reason to leave it frozen
        if _is_of_this_boot(entry) and (cgroup := entry.cgroup or means.parked.find(entry.pid, migration_id)):
            with contextlib.suppress(FileNotFoundError):  # its keeper gave it back already
                means.parked.resume(cgroup)


async def abort_there(means: Means, migration_id: str, reason: str) -> None:
    """Remove what the destination has, over a fresh connection; our journal must say that the source runs."""
    peer = await means.reach.attach(migration_id)
    try:
        await greet(peer, RECONNECT_S)
        abort = pb.Abort(migration_id=migration_id, reason=reason)
        await peer.ask(abort, pb.Aborted, timeout_s=ANSWER_LIMIT_S)
    finally:
        await peer.close()


def name_leftovers(
    blockers: Sequence[Blocker], journal: Journal, request: MigrationRequest, start_time: Callable[[int], int]
) -> list[Blocker]:
    """The same, but what takes the process's place over there may be the stopped copy of an earlier migration of it
    that was rolled back and could not be removed."""
    if not any(one.code in TAKEN for one in blockers):
        return list(blockers)
    found: list[Entry] = []
    with contextlib.suppress(MigrateError, OSError):
        there = (request.destination, State.ROLLED_BACK)
        known = journal.entries_of(request.pid, start_time(request.pid))
        found = [one for one in known if (one.peer, one.state) == there]
    if not found:
        return list(blockers)
    last = max(found, key=lambda one: one.steps[-1].at)
    hint = f"if migration {last.id} left that there, migrate resolve {last.id} removes it; else "
    return [replace(one, hint=hint + (one.hint or "")) if one.code in TAKEN else one for one in blockers]


async def resolve(means: Means, migration_id: str, keep: Keep | None = None) -> Settled:
    """Bring a migration that was left anywhere to its end. Unsettled says what only the operator can decide.

    The target's lock must be held by the caller: no coordinator and no keeper may be at work on it.
    """
    entry = means.journal.require(migration_id, Role.SOURCE)
    state = State(entry.state)
    if state is State.DONE:
        return await _confirm_done(means, migration_id)
    if can_roll_back(state):
        if keep is Keep.DESTINATION:
            raise OutOfOrder(f"migration {migration_id}: the destination's copy was never told to run: {state}")
        return await _finish_roll_back(means, migration_id)
    if state is State.KEPT_SOURCE:
        return await _keep_source(means, entry)
    if state is State.HANDED_OVER:
        release_parked(means, migration_id)
        return Settled(State.DONE, "the destination runs; the frozen source is gone")
    means.journal.advance(migration_id, Event.FAILED)  # IN_DOUBT, if it was not yet
    match keep:
        case Keep.SOURCE:
            return await _keep_source(means, entry)
        case Keep.DESTINATION:
            return await _keep_destination(means, migration_id)
        case None:
            await settle(means, migration_id)
            release_parked(means, migration_id)
            return Settled(State.DONE, "the destination runs; the frozen source is gone")


async def _confirm_done(means: Means, migration_id: str) -> Settled:
    """The operator may have kept a destination that could not be reached then: it is to run."""
    try:
        await _resume_there(means.reach, migration_id)
    except (MigrateError, OSError) as error:
        return Settled(State.DONE, f"done already, but the destination does not say that it runs: {error}")
    return Settled(State.DONE, "done already: the destination runs")


async def _finish_roll_back(means: Means, migration_id: str) -> Settled:
    thaw_parked(means, migration_id, "undone by `migrate resolve`: its `migrate` had ended before it was done")
    try:
        await abort_there(means, migration_id, "rolled back at the source")
    except OutOfOrder:
        raise
    except (MigrateError, OSError) as error:
        return Settled(State.ROLLED_BACK, f"the source runs; the destination may keep a stopped copy: {error}")
    return Settled(State.ROLLED_BACK, "the source runs; the destination has no copy")


async def _keep_source(means: Means, entry: Entry) -> Settled:
    """The operator's word. If the destination can be reached it must give its copy up first, and may refuse."""
    try:
        await abort_there(means, entry.id, "the operator keeps the source")
        note = "the destination has no copy"
    except (TransportError, OSError) as error:
        note = f"the destination cannot be reached, be sure that its copy does not run: {error}"
    except MigrateError as error:
        raise Unsettled(
            f"destination: does not give its copy up: {error.message}",
            hint=f"migrate resolve {entry.id} without --keep asks it again",
        ) from error
    means.journal.advance(entry.id, Event.OPERATOR_KEPT_SOURCE)
    if not _is_of_this_boot(entry):
        return Settled(State.KEPT_SOURCE, f"the source is gone: this host was rebooted; {note}")
    means.parked.resume(entry.cgroup)
    return Settled(State.KEPT_SOURCE, f"the source runs; {note}")


async def _keep_destination(means: Means, migration_id: str) -> Settled:
    try:
        await _resume_there(means.reach, migration_id)
        note = "the destination runs"
    except (TransportError, OSError) as error:
        note = (
            f"the destination cannot be reached; once it can, migrate resolve {migration_id} starts its copy: {error}"
        )
    means.journal.advance(migration_id, Event.OPERATOR_KEPT_DESTINATION)
    release_parked(means, migration_id)
    return Settled(State.DONE, f"{note}; the frozen source is gone")


def _is_of_this_boot(entry: Entry) -> bool:
    return entry.boot_id == read_boot_id()
