"""What is learnt of a process before it is stopped, and of a tree while it stands still: the parts that `dump` and the
live source share."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from core.collect import Zombie, collect_clocks
from core.errors import Refused
from core.images import kinds
from core.images.pb.pstree_pb2 import PstreeEntry
from core.images.store import ImageSet
from core.kernel.calls import pidfd_open
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.proc.status import Status
from core.resources import process_tree, vmas
from core.resources.time_namespace import IMAGE_ID
from core.tracee.family import Family
from core.tracee.remote import Gadgets, RemoteMemory, find_gadgets, open_memory


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is learnt of a process before it is stopped."""

    pid: int
    own_pid: int
    pidfd: int
    memory: RemoteMemory
    gadgets: Gadgets
    vma_flags: dict[int, frozenset[str]]


@contextmanager
def prepare(pid: int, reader: ProcReader | None = None) -> Iterator[Prepared]:
    """Everything that takes time and does not need the process to stand still; Refused for memory we cannot carry."""
    reader = reader or ProcReader()
    pidfd = pidfd_open(pid)
    try:
        with open_memory(pid) as memory:
            smaps = reader.smaps(pid)
            refuse_memory(smaps_flags := {one.vma: one.flags for one in smaps})
            gadgets = find_gadgets(memory, smaps_flags)
            flags = {vma.start: found for vma, found in smaps_flags.items()}
            yield Prepared(pid, reader.status(pid).ns_pid[-1], pidfd, memory, gadgets, flags)
    finally:
        os.close(pidfd)


def refuse_memory(flags: dict[Vma, frozenset[str]]) -> None:
    """Refused with every VMA that cannot be carried."""
    blockers = [blocker for vma, found in flags.items() if (blocker := vmas.refuse(vma, found))]
    if blockers:
        raise Refused(blockers)


def refuse_new_memory(vma_list: tuple[Vma, ...], known: dict[int, frozenset[str]]) -> None:
    """The same inside the freeze, for VMAs that came after prepare()."""
    refuse_memory({vma: known.get(vma.start, frozenset()) for vma in vma_list})


class Stopwatch:
    """Seconds by phase, each phase ending where the next begins."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, float]] = []
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        """What took from the last lap until now was `name`."""
        now = time.monotonic()
        self.phases.append((name, now - self._last))
        self._last = now


def read_statuses(reader: ProcReader, pid: int, tids: list[int]) -> dict[int, Status]:
    """Status of every thread, read once for all who need it while the process stands still."""
    return {tid: reader.status(pid, tid) for tid in tids}


def zombies_of(family: Family) -> list[Zombie]:
    """The dead of a tree."""
    return [Zombie(one.own_pid, one.parent, one.pgid, one.sid, one.comm, one.exit_code) for one in family.dead]


def family_images(family: Family) -> ImageSet:
    """Who is in a tree, without what they are: pstree, the core images of the dead, and its clocks."""
    images = ImageSet()
    images.add(kinds.TIMENS, collect_clocks(ProcReader(), [family.members[0].pid]), IMAGE_ID)
    for one in family.members:
        images.add(kinds.PSTREE, PstreeEntry(pid=one.own_pid, ppid=one.parent, pgid=one.pgid, sid=one.sid))
    for one in family.dead:
        images.add(kinds.CORE, process_tree.collect_zombie_core(one.comm, one.exit_code), one.own_pid)
    return images
