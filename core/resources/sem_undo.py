"""Adjustments of System V semaphores that processes of the tree have (SEM_UNDO): what is added when they end.

Collected from the kernel's memory (core/kernel/sem_undo.py); made anew by semop(2) pairs that leave the value as it is.
A list that threads share is one; what else shares one, and who might have one that cannot be seen, is refused.
"""

import os
import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Final

from core.errors import Blocker, CollectError, ImageError, KernelLacks
from core.images import kinds
from core.images.pb.namespaces_pb2 import SemUndoEntry
from core.images.store import ImageSet
from core.kernel.calls import kcmp
from core.kernel.ipc_namespace import with_us
from core.kernel.sem_undo import UndoLists, open_undo_lists
from core.plan.ops import Program, Syscall
from core.plan.segments import ipc_namespace
from core.proc.main_thread import main_threads
from core.proc.reader import ProcReader
from core.proc.sysvipc import SysvSet

KCMP_SYSVSEM: Final = 6
SEM_UNDO, IPC_NOWAIT = 0o10000, 0o4000
OPERATION: Final = struct.Struct("<Hhh")
LARGEST: Final = 32767  # value of a semaphore
ADJUSTMENTS: Final = range(-32768, 32768)
STEP: Final = 16383  # above any value there is room for it, or below
LOOKS: Final = 10  # at a list that changes while it is read
HINT: Final = "end it and start it over there, or have it use POSIX semaphores"
OTHERS_HINT: Final = "move all who use it as one tree, or end the others"
UNKNOWN_HINT: Final = "BPF and BTF tell them (CONFIG_BPF_SYSCALL, CONFIG_DEBUG_INFO_BTF; no lockdown=confidentiality)"


@dataclass(frozen=True, slots=True)
class Adjustments:
    """By process and set, one for each of its semaphores. `blockers`: those that cannot be carried.

    `unknown`: processes that may have some, which nobody can tell here, and why.
    """

    of: Mapping[int, Mapping[int, Sequence[int]]] = field(default_factory=dict)
    blockers: tuple[Blocker, ...] = ()
    unknown: tuple[int, ...] = ()
    why: str = ""

    @property
    def sets(self) -> set[int]:
        """Ids of those that anybody has adjustments of."""
        return {id for several in self.of.values() for id in several}


@cache
def learn_layout() -> None:
    """Before anything stands still: it takes an eighth of a second, once."""
    with suppress(KernelLacks), open_undo_lists():
        pass


def find(pids: Sequence[int], sets: Sequence[SysvSet], threads_of: Callable[[int], Iterable[int]]) -> Adjustments:
    """Of processes; `sets`: all there are in their IPC namespace, without which nothing is looked at."""
    if not sets:
        return Adjustments()
    try:
        with open_undo_lists() as lists:
            return _find(pids, threads_of, _Lists(lists, {one.id: one.semaphores for one in sets}))
    except KernelLacks as error:
        return Adjustments(unknown=tuple(_with_lists(pids)), why=str(error))


def _find(pids: Sequence[int], threads_of: Callable[[int], Iterable[int]], lists: "_Lists") -> Adjustments:
    of, blockers = {}, []
    owners: dict[int, int] = {}  # of lists, by their place
    for pid in pids:
        place, found = lists.look(pid)
        owner = owners.setdefault(place, pid)
        if found and owner == pid:
            of[pid] = found
        elif place and owner != pid:
            reason = f"shares its list of adjustments of semaphores (SEM_UNDO) with pid {owner}"
            blockers.append(_blocker(f"pid {pid}", reason, HINT))
        with suppress(ProcessLookupError):
            for tid in threads_of(pid):
                if tid != pid and _differ(pid, tid) and lists.look(tid)[0] not in (0, place):
                    reason = "has a list of adjustments of semaphores of its own (SEM_UNDO)"
                    blockers.append(_blocker(f"pid {pid}: thread {tid}", reason, HINT))
    return Adjustments(of, tuple(blockers))


class _Lists:
    """Those of the tree's tasks. Who has the same as the one before, or none like it, is not looked up again."""

    def __init__(self, lists: UndoLists, sizes: Mapping[int, int]) -> None:
        self._lists, self._sizes = lists, sizes
        self._last: tuple[int, int, dict[int, tuple[int, ...]]] | None = None

    def look(self, tid: int, *, anew: bool = False) -> tuple[int, dict[int, tuple[int, ...]]]:
        """Where the list of a task is, and what in it is not zero."""
        if anew or self._last is None or _differ(self._last[0], tid):
            self._last = tid, *self._read(tid)
        return self._last[1:]

    def _read(self, tid: int) -> tuple[int, dict[int, tuple[int, ...]]]:
        """A set may be removed, or used for the first time, while it is looked at."""
        reason = ""
        for _ in range(LOOKS):
            try:
                place = self._lists.find(tid)
                found = self._lists.read(place, self._sizes) if place else {}
                return place, {id: one for id, one in found.items() if any(one)}
            except OSError as error:
                reason = os.strerror(error.errno or 0)
        raise CollectError(
            f"pid {tid}: adjustments of semaphores (SEM_UNDO)", f"cannot be read: {reason}", hint="try again"
        )


def _differ(one: int, other: int) -> bool:
    """The lists of two tasks; also where that cannot be told, as one has ended."""
    try:
        return bool(kcmp(one, other, KCMP_SYSVSEM))
    except OSError:
        return True


def _blocker(subject: str, reason: str, hint: str) -> Blocker:
    return Blocker("sysv-undo", subject, reason, hint)


def _with_lists(pids: Collection[int]) -> list[int]:
    """Who has a list of them, though it may be empty: a fresh child of ours has none."""
    waiting, ending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ending)
        os.read(waiting, 1)
        os._exit(0)
    try:
        return [pid for pid in pids if _differ(child, pid)]
    finally:
        os.close(waiting)
        os.close(ending)
        os.waitpid(child, 0)


def refuse(found: Adjustments, used: Collection[SysvSet]) -> list[Blocker]:
    """What cannot be carried, of processes that use these sets."""
    reason = f"may have adjustments of System V semaphores (SEM_UNDO, or threads), which cannot be seen: {found.why}"
    return [*found.blockers, *(_blocker(f"pid {pid}", reason, UNKNOWN_HINT) for pid in found.unknown)] if used else []


def refuse_outsiders(
    used: Collection[SysvSet], inside: Callable[[], Collection[int]], reader: ProcReader
) -> list[Blocker]:
    """Who else in this IPC namespace has adjustments of these sets. Looks at every process: not in the freeze.

    `inside`: who has not; asked again when somebody is found, who may have been born meanwhile.
    """
    found: list[Blocker] = []
    with suppress(KernelLacks), ExitStack() as stack:
        lists = _Lists(stack.enter_context(open_undo_lists()), {one.id: one.semaphores for one in used})
        for pid in with_us(main_threads(reader, inside())) if used else ():
            with suppress(CollectError):
                reason = f"process {pid} has adjustments of it (SEM_UNDO)"
                if lists.look(pid)[1] and pid not in inside():
                    sets = lists.look(pid, anew=True)[1]  # of who has ended: none
                    found += [Blocker("sysv-sem", f"System V semaphore set {id}", reason, OTHERS_HINT) for id in sets]
    return found


def collect(found: Adjustments, own_pids: Mapping[int, int], images: ImageSet) -> None:
    """Into the entries of the sets. `own_pids`: how the processes call themselves."""
    for entry in images.all(kinds.IPCNS_SEM, ipc_namespace(images)):
        for pid, several in found.of.items():
            for num, adjustment in enumerate(several.get(entry.desc.id, ())):
                if adjustment:
                    entry.undos.add(pid=own_pids[pid], num=num, adjustment=adjustment)


def plan_all(images: ImageSet, pids: Collection[int]) -> dict[int, Program]:
    """For each of the tasks `pids`, when the sets have their values, which forgets all adjustments.

    ImageError when adjustments are none, or nobody's.
    """
    found: dict[int, list[Syscall]] = defaultdict(list)
    for record in images.records(kinds.IPCNS_SEM, ipc_namespace(images)):
        entry, seen = record.message, set()
        for undo in entry.undos:
            known = undo.pid in pids and undo.num < entry.nsems and undo.adjustment in ADJUSTMENTS and undo.adjustment
            if not known or (undo.pid, undo.num) in seen:
                raise ImageError("ipcns-sem", f"set {entry.desc.id}: adjustment of semaphore {undo.num} makes no sense")
            seen.add((undo.pid, undo.num))
            value = int.from_bytes(record.payload[2 * undo.num : 2 * undo.num + 2], "little")
            found[undo.pid] += _plan_undo(entry.desc.id, undo, value)
    return {pid: tuple(ops) for pid, ops in found.items()}


def _plan_undo(set_id: int, undo: SemUndoEntry, value: int) -> Iterator[Syscall]:
    """Up and down again, or down and up where there is no room above the value, in as many steps as it takes."""
    why = f"adjustment of semaphore {undo.num} of System V semaphore set {set_id}"
    missing = abs(undo.adjustment)
    while missing:
        part = min(missing, STEP) * (1 if undo.adjustment > 0 else -1)
        both = [(part, IPC_NOWAIT), (-part, IPC_NOWAIT | SEM_UNDO)]
        both.sort(reverse=value + abs(part) <= LARGEST)
        yield Syscall("semop", (set_id, b"".join(OPERATION.pack(undo.num, *one) for one in both), 2), why)
        missing -= abs(part)
