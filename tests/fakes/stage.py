"""Two hosts in memory: the real coordinator, keepers, journals and messages between fake engines and cuttable wires.

A Stage can cut the wires, kill either keeper or the coordinator, and cancel it, at any fault point.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import Message as Body

from core.errors import CollectError, MigrateError
from migrate.engine import Line, Peer
from migrate.errors import ConnectionLost, JournalError, KeeperLost
from migrate.events import Event
from migrate.journal import Entry, Journal
from migrate.keeper.destination import DestinationKeeper
from migrate.keeper.parked import Parked, parked_copy
from migrate.keeper.source import SourceKeeper
from migrate.messages import decode, encode, failure_of
from migrate.pb import control_pb2 as pb
from migrate.resolve import Keep, Means, Settled, resolve
from migrate.source import migrate_process
from migrate.world import MigrationRequest, MigrationResult, PageStream, SourceView, World
from tests.fakes.engines import FakeDestinationEngine, FakeSourceEngine
from tests.fakes.faults import Faults, Killed
from tests.fakes.reality import Reality

SOURCE, DESTINATION, COORDINATOR = "source keeper", "destination keeper", "coordinator"
ID = "fake1"


class PointedJournal(Journal):
    """A journal whose writes are fault points, and which locks nothing: a killed coordinator here cannot unlock."""

    def __init__(self, state_dir: Path, reach: Callable[[str], None], side: str) -> None:
        super().__init__(state_dir)
        self._reach = reach
        self._side = side

    def write(self, entry: Entry) -> None:
        self._reach(f"{self._side} journal: {entry.state} to be written")
        super().write(entry)
        self._reach(f"{self._side} journal: {entry.state} written")

    @contextlib.contextmanager
    def _lock(self, name: str, busy: object) -> Iterator[int]:
        yield -1


@dataclass(slots=True)
class NoStream:
    """A page stream that nothing flows through."""

    fd: int = -1

    def close_local(self) -> None:
        pass

    async def close(self) -> None:
        pass


class Wire:
    """A Channel to whatever answers; dead once cut. `label` names its points."""

    def __init__(self, stage: "Stage", label: str, answer: Callable[[Body], list[Body]]) -> None:
        self._stage = stage
        self._label = label
        self._answer = answer
        self._answers: deque[bytes] = deque()
        self.dead = False

    async def send(self, message: bytes) -> None:
        await asyncio.sleep(0)
        request = decode(message)
        name = type(request).__name__
        self._stage.reach(f"{self._label}: {name} to be sent")
        await self._stage.stop_if_killed()
        self._check()
        answers = self._answer(request)
        self._stage.reach(f"{self._label}: {name} answered, not heard")
        await self._stage.stop_if_killed()
        self._answers.extend(encode(answer) for answer in answers)

    async def recv(self) -> bytes | None:
        await asyncio.sleep(0)
        self._check()
        return self._answers.popleft() if self._answers else None

    def _check(self) -> None:
        if self.dead:
            raise ConnectionLost(f"{self._label}: cut")

    async def close(self) -> None:
        self.dead = True


class FakeKeeper:
    """The source's keeper as a child that can die."""

    def __init__(self, stage: "Stage", keeper: SourceKeeper) -> None:
        self._stage = stage
        self.keeper = keeper
        self.alive = True
        self.wire = Wire(stage, "here", self._take)
        self._peer = Peer(Line(self.wire, self.wire.close), "source keeper")

    def _take(self, request: Body) -> list[Body]:
        if not self.alive:
            raise ConnectionLost("source keeper: is gone")
        with self._stage.running(SOURCE):
            return [self.keeper.answer(request)]
        raise ConnectionLost("source keeper: died")

    async def ask(self, request, answer, *, on_progress=None, timeout_s=None):  # type: ignore[no-untyped-def]
        try:
            return await self._peer.ask(request, answer, on_progress=on_progress, timeout_s=timeout_s)
        except ConnectionLost as error:
            raise KeeperLost(str(error)) from error

    async def stop(self) -> None:
        await self._peer.close()
        self.end_of_file()

    def end_of_file(self) -> None:
        """Its coordinator hung up."""
        if self.alive and not self.keeper.finished:
            with self._stage.running(SOURCE):
                self.keeper.lost()
        self.alive = False


class Stage:
    """The whole. `faults.at` is armed by the caller through `arm`."""

    def __init__(self, directory: Path, dirty_pages: Sequence[int] = (1000, 100, 1)) -> None:
        self.reality = Reality()
        self.faults = Faults()
        self.events: list[Event] = []
        self.clock = 0.0
        self.reachable = True
        self.dirty_pages = dirty_pages
        self.source_journal = PointedJournal(directory / "a", self.reach, "source")
        self.destination_journal = PointedJournal(directory / "b", self.reach, "destination")
        self.keeper: FakeKeeper | None = None
        self.copy_keeper: DestinationKeeper | None = None
        self.wires: list[Wire] = []
        self.task: asyncio.Task[MigrationResult] | None = None
        self.coordinator_killed = asyncio.Event()
        self.check_answer = pb.CheckAnswer()
        self.struck_at = ""
        self._stack: list[str] = [COORDINATOR]
        self._dead: set[str] = set()

    def arm(self, at: int, strike: Callable[["Stage"], None]) -> None:
        """Let `strike` happen at point number `at`."""

        def strike_there(name: str) -> None:
            self.struck_at = name
            strike(self)

        self.faults = Faults(at, strike_there)

    def reach(self, name: str) -> None:
        """Pass a fault point; code of a process that dies here goes no further."""
        self.faults.reach(name)
        if self._stack[-1] in self._dead:
            raise Killed(name)

    @contextlib.contextmanager
    def running(self, process: str) -> Iterator[None]:
        """What happens inside is done by `process`, and ends when that is killed."""
        self._stack.append(process)
        try:
            yield
        except Killed:
            pass
        finally:
            self._stack.pop()

    async def stop_if_killed(self) -> None:
        """A killed coordinator does nothing more, not even unwind."""
        if self.coordinator_killed.is_set() and not self.reality.over:
            await asyncio.get_running_loop().create_future()

    # What can go wrong.

    def cut(self) -> None:
        for wire in self.wires:
            wire.dead = True

    def cut_for_good(self) -> None:
        self.reachable = False
        self.cut()

    def kill_source_keeper(self) -> None:
        if self.keeper is None or not self.keeper.alive:
            return
        self._dead.add(SOURCE)
        self.keeper.alive = False
        self.keeper.wire.dead = True
        self.reality.target.traced_stop = False
        self.reality.check()

    def kill_destination_keeper(self) -> None:
        if self.copy_keeper is None:
            return
        self._dead.add(DESTINATION)
        self.copy_keeper = None
        self.cut()
        self.reality.copy.skeleton = False  # a stem dies with its tracer, a parked copy does not
        self.reality.check()

    def fail(self) -> None:
        """An engine or a disk that refuses, where there is one; else a cut."""
        if " engine: " in self.struck_at:
            raise CollectError(self.struck_at, "fails as it was told to")
        if " journal: " in self.struck_at:
            raise JournalError(self.struck_at, "No space left on device")
        self.cut()

    def kill_coordinator(self) -> None:
        self.coordinator_killed.set()

    def cancel(self) -> None:
        assert self.task is not None
        self.task.cancel()

    def interrupt_twice(self) -> None:
        self.cancel()
        asyncio.get_running_loop().call_later(0, self.cancel)

    # The world as the coordinator sees it.

    def world(self) -> World:
        return World(
            journal=self.source_journal, far=self,
            examine=lambda request: SourceView(pb.TargetFacts(pids=[request.pid])),
            start_time=lambda pid: 1, spawn_keeper=self._spawn, parked=self.parked_source(), sleep=self.sleep,
            now=self.tick, new_id=lambda: ID,
        )  # fmt: skip

    def parked_source(self) -> Parked:
        return Parked(
            lambda cgroup: self.reality.resume_target(), lambda cgroup: self.reality.kill_target(), lambda pid, id: ""
        )  # fmt: skip

    def parked_destination(self) -> Parked:
        return Parked(
            lambda cgroup: self.reality.resume_copy(), lambda cgroup: self.reality.remove_copy(), lambda pid, id: ""
        )  # fmt: skip

    def tick(self) -> float:
        """The time: it passes by being looked at."""
        self.clock += 0.01
        return self.clock

    def spend(self, seconds: float) -> None:
        self.clock += seconds

    async def sleep(self, seconds: float) -> None:
        self.clock += seconds
        await asyncio.sleep(0)

    async def _spawn(self, migration_id: str, streams: Sequence[PageStream], lock_fd: int) -> FakeKeeper:
        engine = FakeSourceEngine(self.reality, self.reach, self.dirty_pages, self.spend)
        self.keeper = FakeKeeper(self, SourceKeeper(engine, self.source_journal, migration_id))
        return self.keeper

    # Far: the way to the destination.

    notices: Sequence[str] = ()

    async def serve(self) -> Peer:
        return self._connect("there", self._answer_new)

    async def attach(self, migration_id: str) -> Peer:
        return self._connect("there again", lambda request: self._answer_known(migration_id, request))

    async def open_page_stream(self, migration_id: str) -> NoStream:
        return NoStream()

    async def close(self) -> None:
        self.cut()

    def _connect(self, label: str, answer: Callable[[Body], list[Body]]) -> Peer:
        if not self.reachable:
            raise ConnectionLost("host-b: no route")
        self.cut()  # a new control connection replaces the old one
        wire = Wire(self, label, answer)
        self.wires.append(wire)
        return Peer(Line(wire, wire.close), label, "host-b")

    def _answer_new(self, request: Body) -> list[Body]:
        match request:
            case pb.Hello():
                return [pb.HelloAnswer(protocol=1)]
            case pb.Check():
                return [self.check_answer]
            case pb.Agree():
                engine = FakeDestinationEngine(self.reality, self.reach)
                self.copy_keeper = DestinationKeeper(engine, self.destination_journal, request.migration_id)
        return self._answer_by_keeper(request)

    def _answer_known(self, migration_id: str, request: Body) -> list[Body]:
        if isinstance(request, pb.Hello):
            return [pb.HelloAnswer(protocol=1)]
        if self.copy_keeper is not None and not self.copy_keeper.finished:
            return self._answer_by_keeper(request)
        try:
            with parked_copy(self.destination_journal, migration_id, self.parked_destination()) as keeper:
                return _listed(keeper.answer(request))
        except MigrateError as error:
            return [failure_of(error)]

    def _answer_by_keeper(self, request: Body) -> list[Body]:
        keeper = self.copy_keeper
        if keeper is None:
            raise ConnectionLost("destination keeper: is gone")
        with self.running(DESTINATION):
            return _listed(keeper.answer(request) or keeper.land(()))
        raise ConnectionLost("destination keeper: died")

    # Acts of a test.

    async def migrate(self, request: MigrationRequest | None = None) -> MigrationResult | None:
        """Run a migration to its end; None when the coordinator was killed (then its keepers have noticed)."""
        self.coordinator_killed = asyncio.Event()
        self.task = asyncio.ensure_future(
            migrate_process(
                request or MigrationRequest(pid=4711, destination="root@host-b"), self.events.append, self.world()
            )
        )
        killed = asyncio.ensure_future(self.coordinator_killed.wait())
        await asyncio.wait((self.task, killed), return_when=asyncio.FIRST_COMPLETED)
        if self.task.done():
            killed.cancel()
            return self.task.result()
        if self.keeper:
            self.keeper.end_of_file()
        self.cut()
        return None

    def expire_grace(self) -> None:
        """Nobody came back to the destination's keeper."""
        if self.copy_keeper is not None:
            with self.running(DESTINATION):
                self.copy_keeper.give_up("grace is over")

    def means(self) -> Means:
        return Means(self.source_journal, self, self.parked_source(), self.sleep, self.tick)

    async def resolve(self, keep: Keep | None = None) -> Settled:
        """`migrate resolve`, by a new process."""
        self.coordinator_killed.clear()
        self.faults = Faults()
        self.reachable = True
        return await resolve(self.means(), ID, keep)


def _listed(answer: Body | None) -> list[Body]:
    return [] if answer is None else [answer]
