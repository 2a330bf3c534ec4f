"""The destination's keeper: builds the copy, parks it stopped, and resumes or removes it as told; survives SSH.

A copy that is READY neither runs nor goes away without being told. Listening, and who may speak, is listener.py's.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from google.protobuf.message import Message as Body

from core.errors import MigrateError
from migrate.errors import OutOfOrder, ProtocolError
from migrate.journal import Entry, Journal, Role, read_boot_id
from migrate.machine import CopyEvent, CopyState, can_abort
from migrate.messages import failure_of
from migrate.pb import control_pb2 as pb

log = logging.getLogger(__name__)


class DestinationEngine(Protocol):
    """The live half that gets the process."""

    def prepare(self, request: pb.Agree) -> pb.Agreed:
        """Reserve pids, cgroup and memory for the copy."""
        ...

    def add_stream(self, fd: int) -> None:
        """One more page stream, ours to close; may come at any time before the last page."""
        ...

    def begin_round(self, request: pb.Round) -> Sequence[int]:
        """Make the skeletons, or bring their mappings up to date; the memories that have no page."""
        ...

    def land(self, end: pb.RoundEnd | None, wake: Sequence[int]) -> pb.RoundLanded | None:
        """Land pages as they come. Returns None as soon as a descriptor of `wake` is readable; with `end`, returns
        RoundLanded once all that it counts has landed."""
        ...

    def finish(self, request: pb.Finish) -> pb.Ready:
        """Restore everything else and park the tree: cgroup frozen, no tracer. All or nothing."""
        ...

    def resume(self) -> Sequence[pb.PhaseTime]:
        """cgroup.freeze=0; again is no error."""
        ...

    def abort(self) -> None:
        """Remove all that was made, in whatever state; again is no error."""
        ...

    def close(self) -> None:
        """Let go of descriptors; a parked copy stays parked."""
        ...


class DestinationKeeper:
    """One migration's copy, request by request."""

    def __init__(self, engine: DestinationEngine, journal: Journal, migration_id: str, socket_path: str = "") -> None:
        self._engine = engine
        self._journal = journal
        self._id = migration_id
        self._socket_path = socket_path
        self._broken: Exception | None = None  # why landing stopped; the answer to the round's end
        self._end: pb.RoundEnd | None = None
        self.landing = False
        self.finished = False

    @property
    def state(self) -> CopyState | None:
        """As the journal says; None before Agree."""
        entry = self._journal.read(self._id, Role.DESTINATION)
        return CopyState(entry.state) if entry else None

    @property
    def wants_pages(self) -> bool:
        """True while page streams are of use."""
        return self._broken is None and self.state is CopyState.PREPARING

    def answer(self, request: Body) -> Body | None:
        """The answer to one request; None for a round's end, whose answer comes from `land`."""
        try:
            return self._act(request)
        except MigrateError as error:
            log.warning("%s: %s", type(request).__name__, error)
            return failure_of(error)
        except Exception as error:  # the source must hear of our own bugs too, and roll back
            log.exception("%s", type(request).__name__)
            return failure_of(error)

    def land(self, wake: Sequence[int]) -> Body | None:
        """Land pages until a descriptor of `wake` is readable; the round's answer when the round is complete."""
        try:
            if self._broken is not None:
                raise self._broken
            landed = self._engine.land(self._end, wake)
        except Exception as error:  # noqa: BLE001 whatever it was: the sender must not wait for a reader that is gone
            return self._stop_landing(error)
        if landed is not None:
            self.landing, self._end = False, None
        return landed

    def _stop_landing(self, error: Exception) -> Body | None:
        """The sender may be blocked on a full stream: closing the streams frees it, and its coordinator asks us why."""
        log.warning("landing: %s", error)
        self._broken = error
        self.landing = False
        self._engine.close()
        return failure_of(error) if self._end is not None else None

    def add_stream(self, fd: int) -> None:
        """Take over a page stream."""
        self._engine.add_stream(fd)

    def give_up(self, reason: str) -> None:
        """Nobody came back: remove the copy if it was never Ready. Otherwise nothing."""
        if self.state in (None, CopyState.PREPARING, CopyState.ABORTING):
            log.warning("removing the copy: %s", reason)
            self._abort()

    def close(self) -> None:
        """Let go; a parked copy stays."""
        self._engine.close()

    def _act(self, request: Body) -> Body | None:
        match request:
            case pb.Agree():
                return self._agree(request)
            case pb.Round():
                fresh = self._engine.begin_round(request)
                self.landing, self._end = True, None
                return pb.RoundReady(number=request.number, fresh=fresh)
            case pb.RoundEnd():
                return self._end_round(request)
            case pb.Finish():
                return self._finish(request)
            case pb.Resume():
                self._check_id(request.migration_id)
                return self._resume()
            case pb.Abort():
                self._check_id(request.migration_id)
                log.warning("aborted by the source: %s", request.reason)
                return self._abort()
            case pb.Status():
                return self._status()
        raise ProtocolError(f"{type(request).__name__}: is not for the destination's keeper")

    def _agree(self, request: pb.Agree) -> pb.Agreed:
        self._check_id(request.migration_id)
        if self.state is not None:
            raise OutOfOrder(f"migration {self._id}: cannot agree: there is a journal of it already")
        entry = Entry(
            self._id, Role.DESTINATION, CopyState.PREPARING, request.root_pid, 0, read_boot_id(),
            peer=request.source_name, keeper_socket=self._socket_path,
        )  # fmt: skip
        self._journal.prune()
        self._journal.write(entry.entered(CopyState.PREPARING))
        agreed = self._engine.prepare(request)
        entry = self._journal.require(self._id, Role.DESTINATION)
        self._journal.write(replace(entry, cgroup=agreed.cgroup))
        agreed.keeper_socket = self._socket_path
        return agreed

    def _end_round(self, request: pb.RoundEnd) -> Body | None:
        if self._broken is not None:
            raise self._broken
        if not self.landing:
            raise OutOfOrder(f"round {request.number}: ended without having begun")
        self._end = request
        return None

    def _finish(self, request: pb.Finish) -> pb.Ready:
        if self.landing or self.state is not CopyState.PREPARING:
            raise OutOfOrder(f"migration {self._id}: cannot finish in {self.state}")
        ready = self._engine.finish(request)
        self._journal.advance_copy(self._id, CopyEvent.RESTORED, cgroup=ready.cgroup, pids=tuple(ready.pids))
        return ready

    def _resume(self) -> pb.Resumed:
        entry = self._journal.advance_copy(self._id, CopyEvent.RESUME)
        if entry.state == CopyState.RESUMED:  # told twice
            return pb.Resumed(at_realtime=time.time())
        phases = self._engine.resume()
        at = time.time()
        self._journal.advance_copy(self._id, CopyEvent.RESUMED)
        return pb.Resumed(at_realtime=at, phases=phases)

    def _abort(self) -> pb.Aborted:
        state = self.state
        if state is not None and not can_abort(state):
            raise OutOfOrder(f"migration {self._id}: cannot remove the copy: it is {state}")
        if state is not None:
            state = CopyState(self._journal.advance_copy(self._id, CopyEvent.ABORT).state)
        self._engine.abort()
        if state is CopyState.ABORTING:
            self._journal.advance_copy(self._id, CopyEvent.REMOVED)
        self.landing, self.finished = False, True
        return pb.Aborted()

    def _status(self) -> pb.StatusAnswer:
        entry = self._journal.read(self._id, Role.DESTINATION)
        detail = str(self._broken) if self._broken else ""
        hint = self._broken.hint if isinstance(self._broken, MigrateError) else None
        pids = entry.pids if entry else ()
        return pb.StatusAnswer(state=entry.state if entry else "", detail=detail, pids=pids, hint=hint or "")

    def _check_id(self, migration_id: str) -> None:
        if migration_id != self._id:
            raise ProtocolError(f"migration {migration_id}: this is the keeper of {self._id}")
