"""Processes of a live tree that have the memory of another one of it (CLONE_VM), which is looked at through that one.

Nothing is borrowed of them before the freeze: where one may lie is only known when all of that memory stand still.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from core.collect import Subject
from core.errors import MigrateError, TraceeError
from core.ids.orders import TaskOrders
from core.kernel import ptrace
from core.live.process import LiveProcess
from core.prepare import Prepared, prepare
from core.proc.reader import ProcReader
from core.subjects import borrow_sharer
from core.tracee.family import Family, has_ended
from core.tracee.freezer import FrozenProcess
from core.tracee.sharers import find_sharers


@dataclass(slots=True)
class Sharer:
    """One of them. `holder`: through whom its memory is looked at."""

    prepared: Prepared
    holder: LiveProcess
    frozen: FrozenProcess | None = None

    def let_run(self) -> None:
        """Detach from every thread."""
        frozen, self.frozen = self.frozen, None
        if frozen is not None:
            ptrace.detach(frozen.tids)


@dataclass(slots=True)
class Sharers:
    """All of a tree, by our pid. A meeting begins with find(), and ends with meet() of each and settle()."""

    reader: ProcReader
    orders: TaskOrders
    known: dict[int, Sharer] = field(default_factory=dict)
    _holders: Mapping[int, int] = field(default_factory=dict)  # of who shares, and holds it not: who holds it

    def find(self, family: Family, processes: Mapping[int, LiveProcess], frozen: Mapping[int, FrozenProcess]) -> None:
        """Who shares now. Who holds a memory goes on to do so; who left it, or has ended, gives it up to the others."""
        living = [member.pid for member in family.living]
        for pid, process in processes.items():
            if process.sharers and (pid not in living or process.is_over):
                process.abandon(frozen)
        firsts = find_sharers(living, self.reader, self.orders)
        shared = {*firsts, *firsts.values()}
        holders: dict[int, int] = {}
        for pid in living:
            if pid in processes and pid in shared and not processes[pid].is_over:
                other = holders.setdefault(firsts.get(pid, pid), pid)
                if other != pid:
                    raise TraceeError(pid, f"has come to share its memory with pid {other}", hint="try again")
        found = {pid: holders.get(first, first) for pid, first in firsts.items()}
        found |= {first: holders.get(first, first) for first in firsts.values()}
        self._holders = {pid: holder for pid, holder in found.items() if pid != holder}

    @property
    def pids(self) -> set[int]:
        """All of them, as of find()."""
        return set(self._holders)

    def group(self, pid: int) -> list[int]:
        """Everybody who has the memory of `pid`, which holds it, but itself."""
        return [one for one, holder in self._holders.items() if holder == pid]

    def meet(
        self, stack: ExitStack, processes: Mapping[int, LiveProcess], frozen: Mapping[int, FrozenProcess]
    ) -> set[int]:
        """Look at all of them; who ends meanwhile. OSError, MigrateError."""
        return {pid for pid in self._holders if not self._meet(stack, pid, processes, frozen.get(pid))}

    def _meet(
        self, stack: ExitStack, pid: int, processes: Mapping[int, LiveProcess], frozen: FrozenProcess | None
    ) -> bool:
        holder = processes.get(self._holders[pid])
        if holder is None:  # it has ended: the next meeting finds another one
            return False
        known = self.known.get(pid)
        if known is None or known.holder is not holder:
            try:
                self.known[pid] = Sharer(stack.enter_context(prepare(pid, self.reader, holder.prepared)), holder)
            except (MigrateError, OSError):
                if not has_ended(pid, self.reader):
                    raise
                return False
        self.known[pid].frozen = frozen
        return True

    def settle(self, living: Collection[int], processes: Mapping[int, LiveProcess]) -> None:
        """These are left."""
        self.known = {pid: one for pid, one in self.known.items() if pid in living and pid in self._holders}
        for pid, process in processes.items():
            process.sharers = [one.prepared for one in self.known.values() if one.holder.pid == pid]

    def subject(self, stack: ExitStack, pid: int, frozen: Mapping[int, FrozenProcess], parent: int) -> Subject:
        """What is collected of one; all stand still until the stack unwinds."""
        holder = self._holders[pid]
        same = [frozen[one] for one in (holder, *self.group(holder))]
        return borrow_sharer(stack, self.known[pid].prepared, frozen[pid], same, parent, self.reader)

    def __iter__(self) -> Iterator[Sharer]:
        return iter(self.known.values())
