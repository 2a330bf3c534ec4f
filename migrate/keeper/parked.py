"""Copies and sources whose keeper is gone: what a frozen cgroup still allows is to run, or to be killed."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from migrate.errors import OutOfOrder
from migrate.journal import Journal, Role, read_boot_id
from migrate.keeper.destination import DestinationKeeper
from migrate.machine import CopyEvent, CopyState
from migrate.pb import control_pb2 as pb


@dataclass(frozen=True, slots=True)
class Parked:
    """The acts upon a tree that a cgroup holds; they can be repeated, and take a cgroup that is gone as done."""

    resume: Callable[[str], None]  # cgroup.freeze=0
    kill: Callable[[str], None]  # everything in it, then remove it
    find: Callable[[int, str], str]  # by a process's PID and the migration's id; "" when there is none


class ParkedEngine:
    """A DestinationEngine for a copy that was parked by a keeper that is gone."""

    def __init__(self, journal: Journal, migration_id: str, parked: Parked) -> None:
        self._journal = journal
        self._id = migration_id
        self._parked = parked

    def prepare(self, request: pb.Agree) -> pb.Agreed:
        """Not without a keeper."""
        raise self._gone()

    def add_stream(self, fd: int) -> None:
        """Not without a keeper."""
        raise self._gone()

    def begin_round(self, request: pb.Round) -> Sequence[int]:
        """Not without a keeper."""
        raise self._gone()

    def land(self, end: pb.RoundEnd | None, wake: Sequence[int]) -> pb.RoundLanded | None:
        """Not without a keeper."""
        raise self._gone()

    def finish(self, request: pb.Finish) -> pb.Ready:
        """Not without a keeper."""
        raise self._gone()

    def resume(self) -> Sequence[pb.PhaseTime]:
        """Thaw what stands in the journal."""
        self._parked.resume(self._cgroup())
        return ()

    def abort(self) -> None:
        """Remove what stands in the journal."""
        if cgroup := self._cgroup():
            self._parked.kill(cgroup)

    def close(self) -> None:
        """Nothing is held."""

    def _cgroup(self) -> str:
        entry = self._journal.read(self._id, Role.DESTINATION)
        return entry.cgroup if entry else ""

    def _gone(self) -> OutOfOrder:
        return OutOfOrder(f"migration {self._id}: the destination's keeper is gone")


@contextlib.contextmanager
def parked_copy(journal: Journal, migration_id: str, parked: Parked) -> Iterator[DestinationKeeper]:
    """Speak for a keeper that is gone: first finish what its journal began. Refused while the keeper lives."""
    with journal.lock_copy(migration_id):
        journal.socket_path(migration_id).unlink(missing_ok=True)  # one that was killed left it
        keeper = DestinationKeeper(ParkedEngine(journal, migration_id, parked), journal, migration_id)
        entry = journal.read(migration_id, Role.DESTINATION)
        if entry is not None and entry.boot_id != read_boot_id():
            journal.advance_copy(migration_id, CopyEvent.REBOOTED)
        elif entry is not None and entry.state in (CopyState.PREPARING, CopyState.ABORTING):
            keeper.give_up("its keeper is gone")
        elif entry is not None and entry.state == CopyState.RESUMED and entry.cgroup:
            parked.resume(entry.cgroup)  # it runs: what once held it goes
        yield keeper
