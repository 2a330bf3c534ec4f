"""The source's keeper: answers the coordinator's requests with the engine, and decides who holds the freeze.

Until HANDING_OVER is journalled the end of the control socket means: give everything back, the source runs on. From
then on it means: leave the freeze to the cgroup and go.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from google.protobuf.message import Message as Body

from core.errors import MigrateError
from migrate.errors import JournalError, OutOfOrder, ProtocolError
from migrate.journal import Journal, Role
from migrate.machine import Event, State, can_roll_back
from migrate.messages import decode, encode, failure_of
from migrate.pb import control_pb2 as pb

log = logging.getLogger(__name__)


class SourceEngine(Protocol):
    """The live half that gives the process away. Its death (kill -9) must let the target run on, until `hand_over`."""

    def attach(self, request: pb.Attach) -> pb.Attached:
        """Take hold of the tree, arm the tracker, move it into a leaf cgroup of ours; it runs on."""
        ...

    def scan(self, number: int) -> pb.Scanned:
        """Which pages are dirty now; re-arms the tracker. They stay pending until sent."""
        ...

    def send_pages(self, number: int, fresh: Sequence[int], progress: Callable[[pb.Progress], None]) -> pb.PagesSent:
        """Everything pending, and all pages of the memories in `fresh`, down the page streams; returns when the last
        byte is written."""
        ...

    def freeze(self) -> pb.Frozen:
        """Stop all (by ptrace: our death undoes it), last scan, collect everything."""
        ...

    def hand_over(self) -> pb.HandedOver:
        """cgroup.freeze=1, seen to be frozen: from now on the freeze survives us."""
        ...

    def release(self) -> None:
        """Kill the frozen tree and remove its cgroup; again is no error."""
        ...

    def thaw(self) -> None:
        """Give everything back, also cgroup.freeze=0 and the CPU share; the tree runs on. Again is no error."""
        ...

    def throttle(self, share: float) -> pb.Throttled:
        """Bound the tree's CPU; 1 lifts the bound."""
        ...

    def close(self) -> None:
        """Let go of descriptors and tracees without thawing what the cgroup holds."""
        ...


COORDINATOR_GONE = "`migrate` ended before it was done"


class Frames(Protocol):
    """A blocking channel of frames."""

    def send(self, message: bytes) -> None:
        """One frame; OSError or ConnectionLost when nobody is there."""
        ...

    def recv(self) -> bytes | None:
        """The next frame; None at the end of the channel."""
        ...


class SourceKeeper:
    """One migration's source side, request by request. `emit` sends Progress while a request is worked on."""

    def __init__(
        self,
        engine: SourceEngine,
        journal: Journal,
        migration_id: str,
        emit: Callable[[Body], None] = lambda body: None,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._id = migration_id
        self._emit = emit
        self._handed_over = False
        self.finished = False

    def answer(self, request: Body) -> Body:
        """The answer to one request; never raises for what the engine could not do."""
        try:
            return self._act(request)
        except MigrateError as error:
            log.warning("%s: %s", type(request).__name__, error)
            return failure_of(error)
        except Exception as error:  # the coordinator must hear of our own bugs too, and roll back
            log.exception("%s", type(request).__name__)
            return failure_of(error)

    def lost(self) -> None:
        """The coordinator is gone: thaw, unless Resume may have been sent."""
        self.finished = True
        try:
            if not self._handed_over:
                self._thaw(COORDINATOR_GONE)
        finally:
            self._engine.close()

    def _act(self, request: Body) -> Body:
        match request:
            case pb.Attach():
                return self._engine.attach(request)
            case pb.Scan():
                return self._engine.scan(request.number)
            case pb.SendPages():
                return self._engine.send_pages(request.number, request.fresh, self._emit)
            case pb.Throttle():
                return self._engine.throttle(request.cpu_share)
            case pb.Freeze():
                return self._engine.freeze()
            case pb.HandOver():
                return self._hand_over()
            case pb.Release():
                return self._release()
            case pb.Thaw():
                return self._thaw(request.reason)
        raise ProtocolError(f"{type(request).__name__}: is not for the source's keeper")

    def _hand_over(self) -> pb.HandedOver:
        """cgroup.freeze=1, then the journal, then the answer: Resume follows only after all three."""
        answer = self._engine.hand_over()
        self._handed_over = True
        try:
            self._journal.advance(self._id, Event.HANDED_OVER)
        except MigrateError:
            # The entry may have got onto the disk although writing it failed: believe the disk.
            self._handed_over = not self._is_reversible()
            raise
        return answer

    def _is_reversible(self) -> bool:
        try:
            return can_roll_back(State(self._journal.require(self._id, Role.SOURCE).state))
        except JournalError:
            return False

    def _release(self) -> pb.Released:
        if not self._handed_over:
            raise OutOfOrder(f"migration {self._id}: cannot release the source: it was not handed over")
        if self._journal.require(self._id, Role.SOURCE).state != State.HANDED_OVER:
            self._journal.advance(self._id, Event.RESUMED)
        self._engine.release()
        self._journal.advance(self._id, Event.RELEASED)
        return pb.Released()

    def _thaw(self, reason: str) -> pb.Thawed:
        if self._handed_over:
            raise OutOfOrder(f"migration {self._id}: cannot thaw the source: it was handed over")
        try:
            self._journal.roll_back(self._id, reason)
        except MigrateError as error:
            # Before HANDING_OVER a thaw is right whatever the journal says.
            log.warning("the journal does not say ROLLED_BACK: %s", error)
        self._engine.thaw()
        return pb.Thawed()


def serve(keeper: SourceKeeper, frames: Frames) -> None:
    """Answer until the coordinator hangs up."""
    try:
        while (frame := frames.recv()) is not None:
            frames.send(encode(keeper.answer(decode(frame))))
    except (OSError, MigrateError) as error:
        log.warning("control: %s", error)
    finally:
        keeper.lost()
