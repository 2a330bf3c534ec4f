"""Turns one frozen process into an image set (without its pages): asks it what only it can tell, reads the rest.

A table of contents over core/resources; nothing here stops, maps or releases anything.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from core.collect_memory import collect_mm
from core.collect_tasks import Tasks, read_facts
from core.collect_threads import Answers, Asked, Cores, ask_all, collect_crowd
from core.errors import CollectError, Refused
from core.foreseen import Foreseen
from core.ids.shared import SharedIds
from core.images import kinds
from core.images.inventory import make_inventory
from core.images.pb.core_pb2 import CoreEntry, TaskCoreEntry
from core.images.pb.filesystem_pb2 import FsEntry
from core.images.pb.ids_pb2 import TaskKobjIdsEntry
from core.images.pb.memory_pb2 import MmEntry, VmaEntry
from core.images.pb.namespaces_pb2 import TimensEntry
from core.images.store import ImageSet
from core.kernel.ipc_namespace import with_us
from core.kernel.threads import calls_of
from core.memory.ranges import EMPTY, Ranges
from core.options import DumpOptions
from core.proc.auxv import parse_auxv
from core.proc.brief import BriefStatus
from core.proc.maps import Vma
from core.proc.prefetched import PrefetchedReader
from core.proc.reader import ProcReader
from core.proc.stat import Stat
from core.proc.statuses import Statuses
from core.resources import (
    address_space,
    aio,
    credentials,
    ipc_namespace,
    posix_mqueue,
    process_settings,
    process_tree,
    registers,
    seccomp,
    sem_undo,
    sysv_ipc,
    table_collect,
    thread,
    time_namespace,
    vma_marks,
)
from core.resources.ghost_file import Ghosts
from core.resources.named_files import O_DIRECTORY, NamedFiles, Nameless
from core.resources.shared_memory import Segments
from core.resources.sightings import Sightings
from core.tracee.borrow import Borrow
from core.tracee.freezer import FrozenProcess

PROCESS_FILES = (
    "auxv", "autogroup", "coredump_filter", "limits", "oom_score_adj", "personality", "timens_offsets",
    "timers",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Subject:
    """What is collected: a frozen process that lends us `borrow`, its VMAs now and their VmFlags by start address."""

    frozen: FrozenProcess
    borrow: Borrow
    vmas: Sequence[Vma]
    vma_flags: dict[int, frozenset[str]]
    reader: ProcReader
    pidfd: int
    tgid: int  # as Member has it, and `pid`
    own_pid: int
    statuses: Statuses  # of every thread, by tid as we see it
    parent: int = 0  # as the tree itself calls it; 0 for the root
    vma_entries: Sequence[VmaEntry] = ()  # of `vmas`, when they were collected before
    guards: Ranges = EMPTY  # pages of MADV_GUARD_INSTALL
    stat: Stat | None = None  # when it was read after the stop
    has_paths: bool = False  # all that it maps from files, as of `vma_entries`
    memory_of: int = 0  # pid of another subject that has the same memory, and is asked for it: no `vmas` here

    @property
    def pid(self) -> int:
        """The thread through which it is looked at."""
        return self.frozen.pid

    @property
    def has_memory(self) -> bool:
        """Whether it is the one that is asked for its memory."""
        return not self.memory_of

    @property
    def own_tids(self) -> dict[int, int]:
        """What its threads call themselves, by tid as we see it."""
        return self.statuses.own_tids

    def own_tid(self, tid: int) -> int:
        """What the thread calls itself."""
        return self.own_tids[tid]


@dataclass(frozen=True, slots=True)
class Zombie:
    """A task of the tree that has ended and was not waited for. `exit_code` as in wait(2)."""

    own_pid: int
    parent: int
    pgid: int
    sid: int
    comm: str
    exit_code: int


def collect_tree(
    subjects: Sequence[Subject], zombies: Sequence[Zombie], options: DumpOptions, ghosts: Ghosts, segments: Segments,
    foreseen: Foreseen | None = None,
) -> ImageSet:  # fmt: skip
    """Everything about the frozen processes of a tree but their pages; the root first, parents before children.

    What deleted files and shared memory hold is left out too: they are in `ghosts` and `segments`. `foreseen`: what
    was made before.
    """
    foreseen = foreseen or Foreseen()
    crowds = (one for one in subjects if len(one.frozen.tids) > 1 and not one.statuses.share_tables)
    if parted := [blocker for one in crowds for blocker in thread.refuse_parted(one.pid, one.frozen.tids)]:
        raise Refused(parted)
    subjects = _prefetched(subjects)
    rings = {one.pid: found for one in subjects if (found := aio.rings(one.vmas))}
    contexts = aio.wait_idle(list(rings))  # before anything that a request changes when it ends: eventfds, sizes
    images = ImageSet()
    ids = SharedIds(next_file_id=foreseen.sightings.files.next_id)
    ids.compare([subject.pid for subject in subjects], foreseen.orders)
    named = NamedFiles(images, f"/proc/{subjects[0].pid}/root", ids.next_file_id, foreseen.spaces.numbers)
    places = {subject.pid: place for place, subject in enumerate(subjects, 1)}
    kobj_ids = [_collect_ids(one, places[one.memory_of or one.pid], ids, segments.ipc_namespace) for one in subjects]
    cgroup = subjects[0].reader.cgroup2(subjects[0].pid)
    images.add(kinds.CGROUP, process_tree.collect_cgroup(cgroup))
    inventory = make_inventory(process_tree.host_ids(), root_cg_set=process_tree.CGROUP_SET)
    inventory.xsave_layout.extend(registers.collect_layout())
    images.add(kinds.INVENTORY, inventory)
    timers = _collect_tables(subjects, kobj_ids, images, ids, options, ghosts, segments, zombies, foreseen.sightings)
    images.add(kinds.TIMENS, collect_clocks(subjects[0].reader, [one.pid for one in subjects]), time_namespace.IMAGE_ID)
    cores, tasks = Cores(seccomp.Filters()), Tasks()
    for subject, entry, asked in zip(subjects, kobj_ids, _ask(subjects), strict=True):
        nameless = partial(ghosts.describe, images, subject.reader.path(subject.pid, "root"))
        _collect_process(subject, asked, images, named, entry, cores, tasks, nameless, ghosts, segments, foreseen)
    if cores.filters.entry.seccomp_filters:
        images.add(kinds.SECCOMP, cores.filters.entry)
    for zombie in zombies:
        images.add(
            kinds.PSTREE, process_tree.collect_zombie_pstree(zombie.own_pid, zombie.parent, zombie.pgid, zombie.sid)
        )
        images.add(kinds.CORE, process_tree.collect_zombie_core(zombie.comm, zombie.exit_code), zombie.own_pid)
    _collect_ipc(subjects, images, segments)
    for subject in subjects:
        if subject.pid in rings:
            known, read = contexts[subject.pid], subject.borrow.memory.read
            images.one(kinds.MM, subject.own_pid).aios.extend(aio.collect(subject.pid, rings[subject.pid], known, read))
    table_collect.settle_timers(timers, images)
    return images


def _collect_ipc(subjects: Sequence[Subject], images: ImageSet, segments: Segments) -> None:
    """What the tree has of System V; Refused when others have it too. This thread is in the tree's IPC namespace."""
    pids, reader = [subject.pid for subject in subjects], ProcReader()
    if strays := set(pids).difference(with_us(pids)):
        reason, hint = "is in another IPC namespace than the root of its tree was", "move it as a tree of its own"
        raise CollectError(f"pid {min(strays)}", reason, hint=hint)
    sets, threads = reader.semaphore_sets(), {subject.pid: subject.frozen.tids for subject in subjects}
    undos = sem_undo.find(pids, sets, threads.__getitem__)
    tgids = [subject.tgid for subject in subjects]
    blocks = [subject.frozen.threads for subject in subjects]
    used = sysv_ipc.find_used(tgids, reader, sets, undos.sets, lambda: calls_of(blocks), own_ipc=segments.own_ipc)
    refused = [
        *segments.refuse_attached(),
        *sysv_ipc.refuse(used, lambda: tgids, reader),
        *sem_undo.refuse(undos, used.sets),
    ]
    if refused:
        raise Refused(refused)
    sysv_ipc.collect(used, images)
    sem_undo.collect(undos, {subject.pid: subject.own_pid for subject in subjects}, images)
    if segments.own_ipc:
        segments.collect_unattached(images)
        posix_mqueue.collect_unopened(images)
        ipc_namespace.collect(images)


def _prefetched(subjects: Sequence[Subject]) -> list[Subject]:
    """The same, with what is read of each of them read in one go: they stand still."""
    reader = PrefetchedReader(
        subjects[0].reader, [subject.pid for subject in subjects], PROCESS_FILES, ("exe", "cwd", "root")
    )
    return [replace(subject, reader=reader) for subject in subjects]


def collect_clocks(reader: ProcReader, pids: Sequence[int]) -> TimensEntry:
    """The clocks as the processes `pids` of a tree read them; CollectError when they read different ones."""
    offsets = [time_namespace.read_offsets(reader, pid) for pid in pids]
    for pid, found in zip(pids, offsets, strict=True):
        if found != offsets[0]:
            raise CollectError(f"pid {pid}", "is in another time namespace than the root of its tree")
    ours = time_namespace.read_offsets(reader, os.getpid())
    return time_namespace.collect(time_namespace.read_clocks(), offsets[0], ours)


def _collect_tables(
    subjects: Sequence[Subject],
    kobj_ids: Sequence[TaskKobjIdsEntry],
    images: ImageSet,
    ids: SharedIds,
    options: DumpOptions,
    ghosts: Ghosts,
    segments: Segments,
    zombies: Sequence[Zombie],
    sightings: Sightings,
) -> list[table_collect.UnsureTimer]:
    """Descriptor tables of all tasks, each once; for settle_timers."""
    owners = {entry.files_id: subject for subject, entry in reversed(list(zip(subjects, kobj_ids, strict=True)))}
    tables = [
        table_collect.TaskTable(one.pid, one.pidfd, files_id, one.statuses[one.pid].own_pid)
        for files_id, one in reversed(owners.items())
    ]
    return table_collect.collect_tables(
        tables,
        subjects[0].reader,
        images,
        options=options,
        ids=ids,
        ghosts=ghosts,
        segments=segments,
        dead=[zombie.own_pid for zombie in zombies],
        sightings=sightings,
    )


def _collect_ids(subject: Subject, vm: int, ids: SharedIds, ipc: int) -> TaskKobjIdsEntry:
    """What a process shares with others of the tree, by numbers. `vm`: its memory; `ipc`: the namespace of all."""
    pid = subject.pid
    return process_tree.collect_ids(
        vm=vm, files=ids.files(pid)[0], fs=ids.fs(pid)[0], sighand=ids.sighand(pid)[0], ipc=ipc
    )


def _collect_process(
    subject: Subject, asked: Asked, images: ImageSet, named: NamedFiles, ids: TaskKobjIdsEntry,
    cores: Cores, tasks: Tasks, nameless: Nameless, ghosts: Ghosts, segments: Segments,
    foreseen: Foreseen,
) -> None:  # fmt: skip
    leader, stat = asked.answers[0], subject.stat or subject.reader.stat(subject.pid)
    first = stat if subject.pid == subject.tgid else ProcReader().stat(subject.tgid, subject.tgid)
    if subject.parent and (blocker := process_tree.refuse_exit_signal(subject.tgid, first.exit_signal)):
        raise Refused([blocker])
    images.add(kinds.IDS, ids, subject.own_pid)
    images.add(kinds.PSTREE, process_tree.collect_pstree(_identity(subject, leader.status)))
    if subject.has_memory:
        mm = _collect_address_space(subject, stat, leader, named, ghosts, segments, foreseen)
        images.add(kinds.MM, mm, subject.own_pid)
    images.add(kinds.FS, _collect_fs(subject, leader.status, named, nameless), subject.own_pid)
    for answer in asked.answers:
        core = cores.collect(answer)
        if answer.asked.process is not None:
            task = core.tc if subject.pid == subject.tgid else TaskCoreEntry()
            facts = read_facts(subject.pid, stat.flags, subject.frozen.stop_signal, subject.reader)
            tasks.fill(subject.pid, answer, facts, subject.own_tids, subject.reader, task)
            if subject.pid != subject.tgid:
                images.add(kinds.CORE, _collect_ended_leader(subject, core, task), subject.own_pid)
        images.add(kinds.CORE, core, answer.status.own_tid)
    if asked.crowd is not None:
        collect_crowd(asked.crowd, cores, images)


def _collect_ended_leader(subject: Subject, core: CoreEntry, task: TaskCoreEntry) -> CoreEntry:
    """`core`: of the thread through which the process is looked at; `task`: what that one told of the process."""
    reader = ProcReader()
    status, exit_code = reader.status(subject.tgid), reader.stat(subject.tgid, subject.tgid).exit_code
    creds = credentials.collect(status, core.thread_core.creds.secbits)
    return process_tree.collect_ended_leader(core, task, creds, status.name, exit_code)


def _ask(subjects: Sequence[Subject]) -> list[Asked]:
    timers = [subject.reader.timers(subject.pid) for subject in subjects]
    return ask_all([(one.frozen, one.borrow, one.statuses, its) for one, its in zip(subjects, timers, strict=True)])


def _identity(subject: Subject, status: BriefStatus) -> process_tree.TaskIdentity:
    return process_tree.TaskIdentity(
        pid=subject.own_pid,
        ppid=subject.parent,
        pgid=status.pgid,
        sid=status.sid,
        tids=tuple(dict.fromkeys((subject.own_pid, *(subject.own_tid(tid) for tid in subject.frozen.tids)))),
    )


def _collect_address_space(
    subject: Subject, stat: Stat, leader: Answers, named: NamedFiles, ghosts: Ghosts, segments: Segments,
    foreseen: Foreseen,
) -> MmEntry:  # fmt: skip
    pid = subject.pid
    if leader.asked.mm is None:
        raise CollectError(f"pid {pid}", "its leader was not asked for its address space")
    exe = named.add(subject.reader.exe(pid))
    auxv = subject.reader.content(pid, "auxv")
    mm = foreseen.spaces.take(pid, subject.vma_entries, stat, auxv, named) if subject.has_paths else None
    if mm is None:
        entries = collect_mm(pid, subject.vmas, subject.vma_flags, named, ghosts, segments, subject.vma_entries)
        mm = address_space.begin(stat, parse_auxv(auxv, subject.reader.path(pid, "auxv")), entries)
    address_space.collect(mm, exe, leader.asked.mm, leader.results)
    coredump_filter = subject.reader.coredump_filter(pid)
    vma_marks.collect_mm(leader.asked.marks_of_mm, leader.results, subject.guards, mm)
    process_settings.collect_mm(leader.asked.process_settings, leader.results, coredump_filter, mm)
    return mm


def _collect_fs(subject: Subject, status: BriefStatus, named: NamedFiles, nameless: Nameless) -> FsEntry:
    cwd = named.add_directory(subject.reader.cwd(subject.pid), subject.reader.path(subject.pid, "cwd"), nameless)
    root = named.add(subject.reader.root(subject.pid), O_DIRECTORY)
    return FsEntry(cwd_id=cwd, root_id=root, umask=status.umask)
