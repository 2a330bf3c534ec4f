"""The coordinator: one migration from the source's side, as a list of steps. Decides when; touches no process itself.

Every failure before HANDING_OVER rolls back: the source runs on, the destination removes what it made. From then on
there is only forward: settled by the destination's journal, or in doubt. What the journal says counts, not what we
remember, and it is read when our keeper cannot write it any more.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from typing import TypeVar

from core.errors import Blocker, MigrateError, Refused
from migrate import events
from migrate.convergence import DEFAULT_MAX_DOWNTIME_S, Goal
from migrate.downtime import Downtime
from migrate.errors import ConnectionLost, Interrupted, JournalError, ProtocolError, Unsettled, reason_of, words_of
from migrate.events import Phase
from migrate.journal import Entry, Role, read_boot_id
from migrate.machine import OVER, Event, State, can_roll_back
from migrate.messages import PROTOCOL_OLDEST, PROTOCOL_VERSION, blocker_from_text
from migrate.parties import Parties
from migrate.pb import control_pb2 as pb
from migrate.precopy import Precopy
from migrate.preflight import file_choices
from migrate.resolve import ANSWER_LIMIT_S, Means, name_leftovers, release_parked, settle, thaw_parked
from migrate.sync_files import check
from migrate.world import MigrationRequest, MigrationResult, Outcome, World

T = TypeVar("T")
Emit = Callable[[events.Event], None]
log = logging.getLogger(__name__)

# How long the target may stand still before we give up and thaw it: this, and three times what was expected.
FROZEN_AT_LEAST_S = 10.0


async def migrate_process(request: MigrationRequest, emit: Emit, world: World) -> MigrationResult:
    """Move `request.pid`; every way it can come out is a result, told as the last event. Cancelling it rolls back
    until the hand-over begins; from then on it finishes first."""
    migration = Migration(request, emit, world)
    try:
        return await migration.run()
    finally:
        await finish_anyway(migration.close())


async def check_process(request: MigrationRequest, emit: Emit, world: World) -> MigrationResult:
    """`migrate check`: the same refusals, nothing touched. Outcome DONE means that nothing speaks against it."""
    migration = Migration(request, emit, world)
    try:
        await migration.preflight(may_send=False)
    except (MigrateError, OSError) as error:
        return migration.refused(error)
    finally:
        await finish_anyway(migration.close())
    return MigrationResult(migration.id, Outcome.DONE)


class Migration:
    """One migration. `run` is its table of contents."""

    def __init__(self, request: MigrationRequest, emit: Emit, world: World) -> None:
        self.id = request.migration_id or world.new_id()
        self._request = request
        self._emit = _harmless(emit)
        self._world = world
        self._journal = world.journal
        self._began = world.now()
        self._means = Means(world.journal, world.far, world.parked, world.sleep, world.now)
        self._parties = Parties(world, self.id)
        self._downtime = Downtime(world.now)
        self._round_trip_s = 0.0
        self._cgroup = ""
        self._hand_over_asked = False
        self._precopy: Precopy | None = None
        self._ready = pb.Ready()
        self._carried: frozenset[str] = frozenset()  # files that go over with the memory

    async def run(self) -> MigrationResult:
        """Everything, to whichever end."""
        try:
            target = await self.preflight(may_send=True)
            start_time = self._world.start_time(self._request.pid)
            with self._journal.lock_target(read_boot_id(), self._request.pid, start_time) as lock_fd:
                self._finish_earlier(start_time)
                self._journal.refuse_known(self._request.migration_id)
                self._journal.prune()
                return await self._move(target, start_time, lock_fd)
        except (MigrateError, OSError, asyncio.CancelledError) as error:  # nothing is touched by then
            return self.refused(_as_reason(error))

    async def preflight(self, *, may_send: bool) -> pb.TargetFacts:
        """Connect, and gather what speaks against it on both sides; Refused with all of it. `may_send`: files that are
        lacking over there."""
        self._emit(events.Started(self.id, self._request.pid, self._request.destination))
        self._enter(Phase.CONNECT)
        view = await asyncio.to_thread(self._world.examine, self._request)
        self._notice(view.notices)
        blockers = list(view.blockers)
        if blockers and not view.target.pids:  # there is nothing that a host could judge
            raise Refused(blockers)
        try:
            answer, self._round_trip_s = await self._parties.connect()
        except (MigrateError, OSError) as error:
            if blockers:  # what is wrong here is known already: do not hide it behind the network
                raise Refused([*blockers, _as_blocker(self._request.destination, error)]) from error
            raise
        if not PROTOCOL_OLDEST <= answer.protocol <= PROTOCOL_VERSION:
            raise ProtocolError(f"{self._request.destination}: chose protocol {answer.protocol}: we do not speak it")
        self._notice(self._world.far.notices)
        self._enter(Phase.PREFLIGHT)
        view.target.pid_mode = self._request.pid_mode
        view.target.cpu_check = self._request.cpu_check
        wanted, may_send = self._request.sync_files, may_send and not blockers
        checked, self._carried = await check(
            self._parties.there, view.target, self._request.pid, wanted, may_send=may_send
        )
        self._notice(notice.text for notice in checked.notices)
        blockers += [blocker_from_text(text, of_destination=True) for text in checked.blockers]
        if blockers:
            raise Refused(name_leftovers(blockers, self._journal, self._request, self._world.start_time))
        return view.target

    def _finish_earlier(self, start_time: int) -> None:
        """An earlier migration of this process that was killed: undo it, or refuse when only `resolve` may."""
        for entry in self._journal.entries_of(self._request.pid, start_time):
            state = State(entry.state)
            if state in OVER:
                continue
            if not can_roll_back(state):
                reason = f"migration {entry.id} left it {state}"
                raise Refused([Blocker("in-doubt", f"pid {entry.pid}", reason, f"migrate resolve {entry.id}")])
            thaw_parked(self._means, entry.id, f"undone before the next move: it had been left {state}")
            self._notice([f"undid migration {entry.id}, which had been left {state}"])

    async def _move(self, target: pb.TargetFacts, start_time: int, lock_fd: int) -> MigrationResult:
        try:
            await self._agree(target, start_time)
            attached = await self._attach(lock_fd)
            expected_s = await self._copy_while_running(attached)
            async with asyncio.timeout(FROZEN_AT_LEAST_S + 3 * expected_s):
                await self._freeze_and_restore()
        except (MigrateError, OSError, asyncio.CancelledError) as error:
            return await finish_anyway(self._undo(_as_reason(error)))
        except BaseException as error:
            await finish_anyway(self._undo(_as_reason(error)))
            raise
        return await finish_anyway(self._commit())

    async def _agree(self, target: pb.TargetFacts, start_time: int) -> None:
        self._enter(Phase.AGREE)
        request = self._request
        peer, route = request.destination, request.route
        entry = Entry(self.id, Role.SOURCE, "", request.pid, start_time, read_boot_id(), peer=peer, route=route)
        self._journal.write(entry.entered(State.IDLE))
        agree = pb.Agree(
            migration_id=self.id,
            target=target,
            pid_mode=request.pid_mode,
            source_name=self._world.host_name,
            root_pid=target.pids[0] if target.pids else request.pid,
            shell_job=request.shell_job,
            tty=request.tty,
            action_scripts=request.action_scripts,
        )
        agreed = await self._parties.there.ask(agree, pb.Agreed)
        self._journal.advance(self.id, Event.AGREED, keeper_socket=agreed.keeper_socket)
        self._notice([agreed.notice] if agreed.notice else [])
        await self._parties.open_streams(request.streams)

    async def _attach(self, lock_fd: int) -> pb.Attached:
        self._enter(Phase.ATTACH)
        await self._parties.start_keeper(lock_fd)
        request = self._request
        attach = pb.Attach(
            pid=request.pid,
            migration_id=self.id,
            destination=request.destination,
            track=request.track,
            tcp=request.tcp,
            shell_job=request.shell_job,
            bandwidth_bytes_per_s=request.bandwidth_bytes_per_s or 0,
            compress=request.compress,
            keep_source=request.keep_source,
            files=file_choices(replace(request.files, carried=self._carried)),
            action_scripts=request.action_scripts,
        )
        attached = await self._parties.here.ask(attach, pb.Attached)
        self._notice(notice.text for notice in attached.notices)
        self._cgroup = attached.cgroup
        # Before anything can be frozen: whoever finds this journal must know which cgroup to thaw.
        pids = tuple(attached.target.pids) or (request.pid,)
        self._journal.advance(self.id, Event.ATTACHED, cgroup=attached.cgroup, pids=pids)
        return attached

    async def _copy_while_running(self, attached: pb.Attached) -> float:
        self._enter(Phase.PRECOPY)
        here, there = self._parties.here, self._parties.there
        self._precopy = Precopy(self._world, here, there, self.id, self._goal(attached), self._emit)
        return await self._precopy.run()

    def _goal(self, attached: pb.Attached) -> Goal:
        asked, deadline_s = self._request.max_downtime_s, self._request.deadline_s
        shape = {"tasks": attached.tasks, "threads": attached.threads, "fds": attached.fds, "vmas": attached.vmas}
        return Goal(
            max_downtime_s=DEFAULT_MAX_DOWNTIME_S if asked is None else asked,
            explicit=asked is not None,
            deadline_s=deadline_s,
            # Without a goal of the user's, stopping a little longer disturbs less than slowing down.
            may_throttle=self._request.throttle and (asked is not None or deadline_s is not None),
            freeze_cost_s=self._world.freeze_cost.seconds(**shape),
            round_trip_s=self._round_trip_s,
        )

    async def _freeze_and_restore(self) -> None:
        """From here the target stands still, until Resumed or Thawed."""
        assert self._precopy is not None
        here, there = self._parties.here, self._parties.there
        self._enter(Phase.FREEZE)
        self._journal.advance(self.id, Event.FROZE)  # the entry before the act
        self._downtime.begin()
        frozen = await here.ask(pb.Freeze(), pb.Frozen)
        self._downtime.put_off(frozen.ran_seconds)
        self._downtime.lap("freeze", frozen.phases, split=True)
        frozen.round.last = True
        frozen.round.number = len(self._precopy.rounds) + 1
        ready = await there.ask(frozen.round, pb.RoundReady)
        await self._precopy.send(frozen.round.number, frozen.pages, ready.fresh)
        self._downtime.lap("last pages")
        self._enter(Phase.RESTORE)
        self._ready = await there.ask(frozen.finish, pb.Ready)
        self._downtime.lap("restore", self._ready.phases)

    async def _commit(self) -> MigrationResult:
        """Ready was heard. Nothing cancels this any more."""
        try:
            self._enter(Phase.HAND_OVER)
            self._hand_over_asked = True
            await self._parties.here.ask(pb.HandOver(), pb.HandedOver, timeout_s=ANSWER_LIMIT_S)
        except (MigrateError, OSError) as error:
            return await self._undo(error)  # which looks at the journal first
        self._downtime.lap("hand over")
        self._enter(Phase.RESUME)
        try:
            resumed = await self._parties.resume(lambda text: self._notice([text]), self._request.reconnect_s)
        except (MigrateError, OSError) as error:
            return await self._settle(error)
        self._downtime.lap("resume", resumed.phases)
        return await self._release()

    async def _settle(self, error: Exception) -> MigrationResult:
        """Resume may have been heard, or not: only the destination knows."""
        self._enter(Phase.SETTLE)
        limit_s = self._request.reconnect_s
        self._notice([f"asking the destination where it stands, for some {limit_s:g} s until it answers: {error}"])
        try:
            self._journal.advance(self.id, Event.FAILED)
            resumed = await settle(self._means, self.id, limit_s)
        except (MigrateError, OSError) as unsettled:
            return await self._doubt(unsettled, "stopped, or running: it could not be asked")
        self._downtime.lap("resume", resumed.phases)
        return await self._release()

    async def _release(self) -> MigrationResult:
        """The destination journalled that it runs: the frozen source goes."""
        self._enter(Phase.RELEASE)
        self._notice(self._ready.notices)
        try:
            await self._kill_source()
        except (MigrateError, OSError) as error:
            return await self._doubt(error, "running")
        await self._parties.close(lambda text: self._notice([text]))
        assert self._precopy is not None
        self._emit(
            events.Done(
                self.id,
                self._downtime.total_s,
                self._downtime.phases,
                self._world.now() - self._began,
                len(self._precopy.rounds) + 1,
                self._precopy.pages,
                self._precopy.sent_bytes,
                tuple(self._ready.pids),
            )
        )
        return MigrationResult(self.id, Outcome.DONE)

    async def _kill_source(self) -> None:
        try:
            await self._parties.here.ask(pb.Release(), pb.Released, timeout_s=3 * ANSWER_LIMIT_S)
        except (MigrateError, OSError) as error:
            log.warning("the keeper did not release the source, doing it without: %s", error)
            await self._parties.stop_keeper()
            release_parked(self._means, self.id)

    async def _doubt(self, error: Exception, destination: str) -> MigrationResult:
        await self._parties.hang_up()
        with contextlib.suppress(MigrateError, OSError):
            self._journal.advance(self.id, Event.FAILED)
        source = f"stopped, held by cgroup {self._cgroup}"
        if isinstance(error, Unsettled) and error.message.startswith("destination: has no copy"):
            destination = error.message.removeprefix("destination: ")
        self._emit(events.InDoubt(self.id, source, destination, str(error), f"migrate resolve {self.id}"))
        return MigrationResult(self.id, Outcome.IN_DOUBT, error)

    async def _undo(self, error: Exception) -> MigrationResult:
        """The source runs on, unless the journal says that it was handed over."""
        thawed = await self._parties.stop_keeper(reason := reason_of(error))
        if not self._is_reversible():
            return await self._settle(error)
        self._enter(Phase.ROLL_BACK)
        if not thawed:
            self._thaw_without_keeper(reason)
        stopped_s = self._downtime.since_begin_s
        await self._parties.abort(self._means, str(error), lambda text: self._notice([text]))
        await self._parties.close(lambda text: self._notice([text]))
        message, hint = words_of(error)
        self._emit(events.Failed(message, hint, type(error).__name__, stopped_s))
        return MigrationResult(self.id, Outcome.ROLLED_BACK, error)

    def _is_reversible(self) -> bool:
        """Our keeper is gone: what the journal says is final. Unreadable, it counts only if HandOver was asked for."""
        try:
            entry = self._journal.read(self.id, Role.SOURCE)
        except JournalError:
            return not self._hand_over_asked
        return entry is None or can_roll_back(State(entry.state))

    def _thaw_without_keeper(self, reason: str) -> None:
        try:
            if self._journal.read(self.id, Role.SOURCE) is not None:
                thaw_parked(self._means, self.id, reason)
                return
        except JournalError as error:
            self._notice([f"the journal could not be brought up to date: {error}"])
        if self._cgroup:  # before HANDING_OVER a thaw is right whatever became of the journal
            with contextlib.suppress(FileNotFoundError):
                self._world.parked.resume(self._cgroup)

    async def close(self) -> None:
        """Every connection; again is no error."""
        await self._parties.hang_up()
        await self._world.far.close()

    def refused(self, error: Exception) -> MigrationResult:
        """Told as an event: nothing was touched."""
        if isinstance(error, Refused):
            self._emit(events.Blocked(error.blockers))
        else:
            message, hint = words_of(error)
            self._emit(events.Failed(message, hint, type(error).__name__))
        return MigrationResult(self.id, Outcome.REFUSED, error)

    def _enter(self, phase: Phase) -> None:
        self._emit(events.PhaseStarted(phase, self._world.now() - self._began))

    def _notice(self, texts: Iterable[str]) -> None:
        for text in texts:
            self._emit(events.Notice(text))


async def finish_anyway(work: Coroutine[object, object, T]) -> T:
    """The result of `work`, whoever cancels us meanwhile: half a hand-over and half a roll-back are no states."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def _harmless(emit: Emit) -> Emit:
    """A closed terminal must not decide over a frozen process."""

    def emit_or_log(event: events.Event) -> None:
        try:
            emit(event)
        except Exception:
            log.exception("nobody could be told of %s", type(event).__name__)

    return emit_or_log


def _as_reason(error: BaseException) -> Exception:
    match error:
        case asyncio.CancelledError() | KeyboardInterrupt() | SystemExit():
            return Interrupted("interrupted by the user")
        case TimeoutError():
            return ConnectionLost("destination: was not ready in time: the process had stood still for too long")
        case Exception():
            return error
    return Interrupted(type(error).__name__)


def _as_blocker(destination: str, error: Exception) -> Blocker:
    message, hint = words_of(error)
    return Blocker("unreachable", destination, message.removeprefix(f"{destination}: "), hint, of_destination=True)
