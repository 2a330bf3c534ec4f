"""What is learnt of a process before it is stopped, and of a tree while it stands still: the parts that `dump` and the
live source share."""

import errno
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from core.collect import Zombie, collect_clocks
from core.errors import KernelLacks, MigrateError, NotBorrowable, Refused
from core.ids.shared import SharedIds
from core.images import kinds
from core.images.pb.ids_pb2 import TaskKobjIdsEntry
from core.images.pb.pstree_pb2 import PstreeEntry
from core.images.store import ImageSet
from core.kernel.calls import pidfd_open
from core.kernel.thread_records import ThreadRecords, open_thread_records
from core.memory.dirty.kept import without_our_marks
from core.proc.auxv import auxv_value
from core.proc.maps import Vma
from core.proc.reader import ProcReader, content_of
from core.proc.statuses import Statuses
from core.resources import aio, process_tree, sem_undo, untold_sockets, vmas
from core.resources.time_namespace import IMAGE_ID
from core.task_plan import first_sharers
from core.tracee.family import Family, ended_leader_blocker, has_ended, has_gone, read_settled, release, stop_family
from core.tracee.freezer import FrozenProcess
from core.tracee.remote import Gadgets, RemoteMemory, find_gadgets, open_memory
from core.tracee.sharers import find_sharers
from core.vdso.mark import VdsoCode, vdso_code

STARTING_S: Final = 0.1  # in which a program that was just executed maps its libc
STARTING_POLL_S: Final = 0.005
STOPS: Final = 8
AT_RANDOM: Final = 25
RANDOM_BYTES: Final = 16
CROWD: Final = 64  # threads: of fewer it is as cheap to ask each
ALONE: Final = 1 << 30  # numbers from here on are of objects that nobody shares

Stopped = tuple[Family, dict[int, FrozenProcess]]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is learnt of a process before it is stopped."""

    pid: int  # as Member has them
    tgid: int
    own_pid: int
    own_tid: int  # what thread `pid` calls itself
    pidfd: int  # of thread `pid`
    process_fd: int  # of the whole process, whose end it tells
    memory: RemoteMemory
    gadgets: Gadgets
    vma_flags: dict[int, frozenset[str]]
    vdso: VdsoCode
    records: ThreadRecords | None = None

    @property
    def is_over(self) -> bool:
        """True when the memory that was looked at is no longer: the process has executed a program, or ended."""
        try:
            return not os.pread(self.memory.fd, 1, self.gadgets.syscall_ret)
        except OSError:  # unmapped: the memory as such is there
            return False


@contextmanager
def prepare(pid: int, reader: ProcReader | None = None, sharer: Prepared | None = None) -> Iterator[Prepared]:
    """Everything that takes time and does not need the process to stand still; Refused for memory we cannot carry.

    `sharer`: another process that has the same memory, of which what there is to know of that is known.
    """
    reader = reader or ProcReader()
    tgid = reader.status(pid).tgid
    if reader.semaphore_sets():
        sem_undo.learn_layout()
    with ExitStack() as stack:
        pidfd = process_fd = _pidfd_of(stack, tgid, tgid)
        if pid != tgid:
            pidfd = _pidfd_of(stack, pid, tgid)
        if blockers := untold_sockets.refuse(pid, pidfd, reader):
            raise Refused(blockers)
        if sharer is not None:
            prepared = _prepare_sharer(pid, pidfd, process_fd, reader, sharer)
        else:
            prepared = _prepare_started(pid, pidfd, process_fd, reader)
        stack.callback(prepared.memory.close)
        if len(reader.tids(pid)) >= CROWD:
            with suppress(KernelLacks):  # each thread is asked then
                prepared = replace(prepared, records=stack.enter_context(open_thread_records(tgid)))
        yield prepared


def _pidfd_of(stack: ExitStack, pid: int, tgid: int) -> int:
    """Closed with the stack. Refused for a thread on a kernel that has it for processes only."""
    try:
        pidfd = pidfd_open(pid)
    except OSError as error:
        if error.errno == errno.EINVAL and pid != tgid:
            raise Refused([ended_leader_blocker(tgid)]) from error
        raise
    stack.callback(os.close, pidfd)
    return pidfd


def _prepare_started(pid: int, pidfd: int, process_fd: int, reader: ProcReader) -> Prepared:
    """A process that has just executed its program, and runs, is given time to map its libc."""
    deadline = time.monotonic() + STARTING_S
    while True:
        try:
            return _prepare_now(pid, pidfd, process_fd, reader)
        except NotBorrowable:
            if reader.status(pid).tracer_pid or time.monotonic() > deadline:
                raise
            time.sleep(STARTING_POLL_S)


def _prepare_now(pid: int, pidfd: int, process_fd: int, reader: ProcReader) -> Prepared:
    memory = RemoteMemory(pid)
    try:
        smaps = without_our_marks(pid, reader.smaps(pid))
        refuse_memory(smaps_flags := {one.vma: one.flags for one in smaps})
        flags = {vma.start: found for vma, found in smaps_flags.items()}
        code = vdso_code(list(smaps_flags), memory.read)
        gadgets = find_gadgets(memory, smaps_flags)
        return Prepared(*_ids_of(pid, reader), pidfd, process_fd, memory, gadgets, flags, code)
    except BaseException:
        memory.close()
        raise


def _prepare_sharer(pid: int, pidfd: int, process_fd: int, reader: ProcReader, sharer: Prepared) -> Prepared:
    ids, memory = _ids_of(pid, reader), RemoteMemory(pid)
    return Prepared(*ids, pidfd, process_fd, memory, sharer.gadgets, sharer.vma_flags, sharer.vdso)


def _ids_of(pid: int, reader: ProcReader) -> tuple[int, int, int, int]:
    status = reader.status(pid)
    return pid, status.tgid, status.ns_tgid[-1], status.ns_pid[-1]


def stop_met(
    root: int, reader: ProcReader, meet: Callable[[Family, dict[int, FrozenProcess]], None],
    prepared: Mapping[int, Prepared], watch: "Stopwatch | None" = None,
) -> Stopped:  # fmt: skip
    """The tree of `root`, stopped, after `meet` was called with it: what that has to do before anything else is done.

    `prepared`: who was looked at before, by PID. `watch` begins when the first of them is stopped.

    One that has only just been started is NotBorrowable: then all run on for a moment, and are stopped again.
    """
    begin = watch.begin if watch else lambda began_s: None
    for attempt in range(STOPS):
        family, frozen = stop_family(root, reader, {pid: known.vdso for pid, known in prepared.items()}, begin)
        try:
            meet(family, frozen)
            return family, frozen
        except NotBorrowable:
            release(frozen)
            if attempt == STOPS - 1:
                raise
            time.sleep(STARTING_POLL_S)
        except BaseException:
            release(frozen)
            raise
    raise AssertionError("unreachable")


def prepare_living(stack: ExitStack, root: int, reader: ProcReader) -> dict[int, Prepared]:
    """All of the tree as it is now, but for those that end meanwhile, and for those that share their memory: one of
    these may execute a program unseen, as its old memory stays."""
    prepared = {}
    living = read_settled(root, reader, ()).living
    sharers = find_sharers([member.pid for member in living], reader)
    sharing = {*sharers, *sharers.values()}
    for member in living:
        if member.pid in sharing:
            continue
        try:
            prepared[member.pid] = stack.enter_context(prepare(member.pid, reader))
        except (MigrateError, OSError):
            if member.pid == root or not has_gone(member.pid, reader):
                raise
    return prepared


def prepare_new(stack: ExitStack, family: Family, prepared: dict[int, Prepared], reader: ProcReader) -> dict[int, int]:
    """Who was born, or has executed another program, since prepare_living; and those that share their memory, who are
    returned as find_sharers() has them."""
    sharers = find_sharers([member.pid for member in family.living], reader)
    sharing = {*sharers, *sharers.values()}
    someone_came = any(member.pid not in prepared for member in family.living)
    for member in family.living:
        known, shares = prepared.get(member.pid), member.pid in sharing
        if known is None or known.is_over or shares or (someone_came and _has_left(known, reader)):
            first = prepared[sharers[member.pid]] if member.pid in sharers else None
            prepared[member.pid] = stack.enter_context(prepare(member.pid, reader, first))
    return sharers


def _has_left(prepared: Prepared, reader: ProcReader) -> bool:
    """It has executed a program, and somebody has the memory that was looked at: the kernel's random bytes differ."""
    try:
        place = auxv_value(reader.auxv(prepared.pid), AT_RANDOM)
        with open_memory(prepared.pid) as now:
            return place is None or now.read(place, RANDOM_BYTES) != prepared.memory.read(place, RANDOM_BYTES)
    except (MigrateError, OSError):
        return True


def refuse_memory(flags: dict[Vma, frozenset[str]]) -> None:
    """Refused with every VMA that cannot be carried."""
    blockers = [blocker for vma, found in flags.items() if (blocker := vmas.refuse(vma, found))]
    blockers += aio.refuse_unknown(list(flags))
    if blockers:
        raise Refused(blockers)


def read_flags(prepared: Prepared, reader: ProcReader, *, tracked: bool = False) -> None:
    """VmFlags anew, in place; Refused as in prepare(). `tracked`: write-protection by userfaultfd is ours."""
    ours = {"uw"} if tracked else set()
    smaps = reader.smaps(prepared.pid) if tracked else without_our_marks(prepared.pid, reader.smaps(prepared.pid))
    found = {one.vma: one.flags - ours for one in smaps}
    refuse_memory(found)
    prepared.vma_flags.clear()
    prepared.vma_flags.update((vma.start, flags) for vma, flags in found.items())


def read_statuses(
    frozen: Mapping[int, FrozenProcess], prepared: Mapping[int, Prepared], reader: ProcReader
) -> dict[int, Statuses]:
    """Of every thread, by process; of many by what the kernel has of them, where it tells."""
    found = {}
    for pid, one in frozen.items():
        if (known := prepared.get(pid)) and known.records and len(one.tids) >= CROWD:
            with suppress(OSError, LookupError):
                found[pid] = Statuses({}, known.records.read(one.tids), partial(_status_texts, reader, pid))
    found.update(reader.brief_statuses({pid: one.tids for pid, one in frozen.items() if pid not in found}))
    return found


def _status_texts(reader: ProcReader, pid: int, tids: Sequence[int]) -> list[bytes]:
    return [content_of(text) for text in reader.contents([(pid, f"task/{tid}/status") for tid in tids])]


class Stopwatch:
    """Seconds by phase, each phase ending where the next begins."""

    def __init__(self) -> None:
        self.phases: list[tuple[str, float]] = []
        self.began: float | None = None
        self._last = time.monotonic()

    def begin(self, at_s: float) -> None:
        """The first phase began only then, by time.monotonic(), if this was not said before."""
        if self.began is None:
            self.began = self._last = at_s

    def lap(self, name: str) -> None:
        """What took from the last lap until now was `name`."""
        now = time.monotonic()
        self.phases.append((name, now - self._last))
        self._last = now


@contextmanager
def without_collector() -> Iterator[None]:
    """While something stands still: the garbage collector would go through all that we know."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def zombies_of(family: Family) -> list[Zombie]:
    """The dead of a tree. Refused: one that ended otherwise than by SIGCHLD."""
    if blockers := process_tree.refuse_exit_signals(family.dead):
        raise Refused(blockers)
    return [Zombie(one.own_pid, one.parent, one.pgid, one.sid, one.comm, one.exit_code) for one in family.dead]


def family_images(family: Family, ipc: int, collected: ImageSet | None = None) -> ImageSet:
    """Who is in a tree, without what they are: pstree, what the living share, the core images of the dead, its clocks.

    `ipc`: number of its IPC namespace; `collected`: images of the same tree, if there are any.
    """
    images = ImageSet()
    ids = {} if collected else _read_sharing([one.pid for one in family.living], ipc, ProcReader())
    for one in family.living:
        images.add(kinds.IDS, collected.one(kinds.IDS, one.own_pid) if collected else ids[one.pid], one.own_pid)
    images.add(kinds.TIMENS, collect_clocks(ProcReader(), [family.members[0].pid]), IMAGE_ID)
    for one in family.members:
        images.add(kinds.PSTREE, PstreeEntry(pid=one.own_pid, ppid=one.parent, pgid=one.pgid, sid=one.sid))
    for one in family.dead:
        images.add(kinds.CORE, process_tree.collect_zombie_core(one.comm, one.exit_code), one.own_pid)
    return images


def _read_sharing(pids: Sequence[int], ipc: int, reader: ProcReader) -> dict[int, TaskKobjIdsEntry]:
    """Who shares descriptors and working directory while they run; one that has ended shares nothing with anybody."""
    living = list(pids)
    found: dict[int, tuple[int, int, int, int]] = {}
    for _ in range(STOPS):
        ids = SharedIds()
        try:
            firsts = find_sharers(living, reader)  # who shares no memory shares no signal actions
            sharing, places = {*firsts, *firsts.values()}, {pid: place for place, pid in enumerate(pids, 1)}
            found = {
                pid: (
                    ids.files(pid)[0], ids.fs(pid)[0], places[firsts.get(pid, pid)],
                    ids.sighand(pid)[0] if pid in sharing else ALONE + places[pid],
                )
                for pid in living
            }  # fmt: skip
            break
        except ProcessLookupError:
            living = [pid for pid in living if not has_ended(pid, reader)]
    shared = {pid for kind in range(4) for pid in first_sharers({pid: one[kind] for pid, one in found.items()})}
    alone = {pid for pid in pids if pid not in found or (pid in shared and has_ended(pid, reader))}
    numbers = {pid: (ALONE + place,) * 4 if pid in alone else found[pid] for place, pid in enumerate(pids, 1)}
    return {
        pid: process_tree.collect_ids(files=files, fs=fs, vm=vm, sighand=sighand, ipc=ipc)
        for pid, (files, fs, vm, sighand) in numbers.items()
    }
