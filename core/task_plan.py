"""Compiles an image set into the plan of one task: which programs run in which thread at which stage. Pure.

Stages are CRIU's: each is finished by every thread before the next begins; credentials come last.
"""

import os
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from google.protobuf.message import EncodeError

from core.errors import ImageError
from core.images import kinds
from core.images.inventory import check_inventory
from core.images.pb.core_pb2 import CoreEntry
from core.images.pb.filesystem_pb2 import FsEntry
from core.images.pb.memory_pb2 import MmEntry
from core.images.pb.pstree_pb2 import PstreeEntry
from core.images.pb.seccomp_pb2 import SeccompEntry
from core.images.pb.signals_pb2 import SignalQueueEntry
from core.images.store import ImageSet
from core.kernel.threads import ThreadState
from core.kernel.xsave import Layout
from core.memory_plan import MappedNames, MemoryPlan, memory_holders, memory_plan
from core.options import RestoreOptions
from core.plan.births import TaskShape, plan_births
from core.plan.ghost_names import with_passing_names
from core.plan.ops import FdAllocator, Program
from core.plan.segments import SegmentSpec, has_own_ipc
from core.plan.terminals import controlling, masters
from core.resources import (
    address_space,
    aio,
    credentials,
    posix_timers,
    process_settings,
    process_tree,
    registers,
    seccomp,
    sem_undo,
    signals,
    sysv_ipc,
    table_plan,
    terminal,
    thread,
    thread_settings,
    time_namespace,
    vma_marks,
    vmas,
)
from core.resources.table_plan import FilePlan
from core.resources.time_namespace import NO_OFFSETS, Clocks

# System calls that make and place descriptors of which nobody else knows, or take them. Sockets have names.
SIMPLE: Final = frozenset({
    "close", "dup3", "epoll_create1", "eventfd2", "fcntl", "lseek", "openat", "pidfd_getfd", "pidfd_open", "pipe2",
    "signalfd4", "timerfd_create", "write",
})  # fmt: skip


class Stage(StrEnum):
    """Stages that run programs in the task, in order."""

    FORKING = "FORKING"  # the task's threads are made
    RESTORE = "RESTORE"  # files, memory marks, signal actions
    RESTORE_SIGCHLD = "RESTORE_SIGCHLD"  # queued signals, while all are blocked
    RESTORE_CREDS = "RESTORE_CREDS"  # rights go last; timers are armed
    SEAL = "SEAL"  # what changing rights would undo, and what there is no way back from: seccomp at the very end


@dataclass(frozen=True, slots=True)
class Step:
    """A program and the thread (as it calls itself) that runs it."""

    stage: Stage
    tid: int
    program: Program


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """Everything needed to make one task out of a stem."""

    pid: int
    tids: tuple[int, ...]
    memory: MemoryPlan
    memory_pid: int  # of the task that has the image of it: another one when they share it
    files_id: int
    steps: tuple[Step, ...]
    states: dict[int, ThreadState]  # of the threads that live
    cores: dict[int, CoreEntry]
    yield_signal: int
    coredump_filter: int | None
    stopped: bool  # by job control, or a SIGSTOP is on its way
    handed: tuple[tuple[int, int], ...] = ()  # see FilePlan
    owners: frozenset[int] = frozenset()  # see FilePlan
    is_simple: bool = False  # its RESTORE minds nobody who does the same at the same time

    @property
    def leader_status(self) -> int | None:
        """With which wait(2) status the first thread ends at last, before SEAL; None: it lives."""
        return None if self.pid in self.states else self.cores[self.pid].tc.exit_code

    @property
    def has_memory(self) -> bool:
        """False: it shares that of a task which has the image of it."""
        return self.memory_pid == self.pid

    def describe(self) -> Iterator[str]:
        """One line per operation, for `restore --plan`."""
        mapped = self.memory.mapped if self.has_memory else ()
        handed = {wanted: index for index, wanted in enumerate(vmas.descriptors_needed((), mapped))}
        for op in vmas.plan_update((), mapped, FdAllocator(), handed):
            yield f"FORKING  pid {self.pid}: {op.name}: {op.why}"
        if self.leader_status is not None:
            yield f"SEAL  thread {self.pid}: exit: the first thread has ended"
        for step in self.steps:
            for op in step.program:
                yield f"{step.stage}  thread {step.tid}: {op.name}: {op.why}"
        yield f"resume  pid {self.pid}: registers of {len(self.states)} threads"


@dataclass(frozen=True, slots=True)
class TreePlan:
    """A whole tree: who is born how, what each living task becomes, and the dead by pid: name and wait(2) status."""

    shapes: tuple[TaskShape, ...]
    tasks: tuple[TaskPlan, ...]
    dead: dict[int, tuple[str, int]]
    segments: dict[int, SegmentSpec] = field(default_factory=dict)
    own_ipc: bool = False  # it has an IPC namespace to itself

    @property
    def root(self) -> TaskPlan:
        """The first task."""
        return self.tasks[0]

    @property
    def with_memory(self) -> list[TaskPlan]:
        """One task of each address space."""
        return [task for task in self.tasks if task.has_memory]

    def describe(self) -> Iterator[str]:
        """One line per operation, for `restore --plan`."""
        if self.own_ipc:
            yield "PREPARE_NAMESPACES  unshare(CLONE_NEWIPC)"
        for spec in self.segments.values():
            yield f"PREPARE_NAMESPACES  {spec.name}: {spec.size} bytes"
        yield f"ROOT_TASK  pid {self.root.pid}: clone3(set_tid)"
        for birth in plan_births(self.shapes):
            yield f"FORKING  {birth.describe()}"
        for task in self.tasks:
            yield from task.describe()


def tree_shapes(images: ImageSet) -> tuple[TaskShape, ...]:
    """The tree as it was, root first."""
    entries = process_tree.tasks(images)
    ids = {one.pid: images.one(kinds.IDS, one.pid) for one in entries if not process_tree.is_dead(images, one.pid)}
    terminals = controlling(images)
    files = first_sharers({pid: one.files_id for pid, one in ids.items()})
    fs = first_sharers({pid: one.fs_id for pid, one in ids.items()})
    vm = first_sharers({pid: one.vm_id for pid, one in ids.items()})
    sighand = first_sharers({pid: one.sighand_id for pid, one in ids.items()})
    return tuple(
        TaskShape(
            one.pid,
            one.ppid,
            one.pgid,
            one.sid,
            one.pid not in ids,
            files.get(one.pid, 0),
            fs.get(one.pid, 0),
            terminals.get(one.pid, 0),
            vm.get(one.pid, 0),
            sighand.get(one.pid, 0),
        )
        for one in entries
    )


def first_sharers(objects: Mapping[int, int]) -> dict[int, int]:
    """Of all pids that have their object in common with another one: the first that has it. Pure."""
    users = Counter(objects.values())
    firsts: dict[int, int] = {}
    for pid, object in objects.items():
        firsts.setdefault(object, pid)
    return {pid: firsts[object] for pid, object in objects.items() if users[object] > 1}


def compile_tree(images: ImageSet, launcher_bounding: int, options: RestoreOptions) -> TreePlan:
    """The plan of `images`; ImageError when they do not fit together."""
    try:
        return _compile_tree(with_passing_names(images, os.getpid()), launcher_bounding, options)
    except (LookupError, ValueError, OverflowError, struct.error, EncodeError) as error:  # they make no sense together
        raise ImageError("images", f"do not fit together: {error!r}") from error


def _compile_tree(images: ImageSet, launcher_bounding: int, options: RestoreOptions) -> TreePlan:
    check_inventory(images.one(kinds.INVENTORY))
    shapes = tree_shapes(images)
    entries = {entry.pid: entry for entry in process_tree.tasks(images)}
    files = table_plan.plan_tables(images, _tables(images, shapes), tcp=options.tcp, terminal=options.terminal)
    names = MappedNames(images)
    layout = registers.layout_of(images)
    living = [shape.pid for shape in shapes if not shape.dead]
    undos, holders = sem_undo.plan_all(images, living), memory_holders(images, living)
    memories = {pid: memory_plan(images, pid, names) for pid in dict.fromkeys(holders.values())}
    sharers = {shape.pid for shape in shapes if shape.files or shape.fs or shape.vm or shape.sighand}
    made = (files, launcher_bounding, names, layout, sharers)
    return TreePlan(
        shapes,
        tuple(
            _compile_task(images, entries[pid], *made, undos.get(pid, ()), holders[pid], memories[holders[pid]])
            for pid in living
        ),
        {shape.pid: _end_of(images, shape.pid) for shape in shapes if shape.dead},
        names.segments.specs,
        has_own_ipc(images),
    )


def _end_of(images: ImageSet, pid: int) -> tuple[str, int]:
    task = images.one(kinds.CORE, pid).tc
    return task.comm, task.exit_code


def _tables(images: ImageSet, shapes: Sequence[TaskShape]) -> dict[int, int]:
    """Descriptor table of each living task."""
    tables = {shape.pid: images.one(kinds.IDS, shape.pid).files_id for shape in shapes if not shape.dead}
    for table in tables.values():
        if not images.has(kinds.FDINFO, table):
            raise ImageError(kinds.FDINFO.file_name(table), "is missing")
    return tables


def _compile_task(
    images: ImageSet, entry: PstreeEntry, files: Mapping[int, FilePlan], launcher_bounding: int, names: MappedNames,
    layout: Layout, sharers: Collection[int], undos: Program, memory_pid: int, memory: MemoryPlan,
) -> TaskPlan:  # fmt: skip
    if entry.pid not in entry.threads:
        raise ImageError("pstree.img", f"task {entry.pid} is not among its own threads")
    cores = {tid: images.one(kinds.CORE, tid) for tid in entry.threads}
    living = {tid: core for tid, core in cores.items() if tid != entry.pid or not process_tree.has_ended_leader(core)}
    if not living:
        raise ImageError("pstree.img", f"task {entry.pid} has no thread that lives")
    states = {tid: registers.thread_state(core, tid, _sigmask(core), layout) for tid, core in living.items()}
    return TaskPlan(
        pid=entry.pid,
        tids=tuple(entry.threads),
        memory=memory,
        memory_pid=memory_pid,
        files_id=images.one(kinds.IDS, entry.pid).files_id,
        steps=(
            *_steps(images, names, entry, cores, states, launcher_bounding, files[entry.pid]),
            Step(Stage.RESTORE_SIGCHLD, entry.pid, undos),
        ),
        states=states,
        cores=cores,
        yield_signal=signals.free_signal(_used_signals(cores)),
        stopped=process_tree.is_stopped(cores[entry.pid]) or signals.is_stopping(_queues(cores)),
        coredump_filter=_coredump_filter(images.one(kinds.MM, memory_pid)),
        handed=files[entry.pid].handed,
        owners=files[entry.pid].owners,
        is_simple=entry.pid not in sharers and all(op.name in SIMPLE for op in files[entry.pid].program),
    )


def _coredump_filter(mm: MmEntry) -> int | None:
    return mm.coredump_filter if mm.HasField("coredump_filter") else None


def _queues(cores: Mapping[int, CoreEntry]) -> list[SignalQueueEntry]:
    return [core.tc.signals_s for core in cores.values()] + [core.thread_core.signals_p for core in cores.values()]


def _used_signals(cores: Mapping[int, CoreEntry]) -> set[int]:
    """Signals that come about while the task is made."""
    timers = {timer.si_signo for core in cores.values() for timer in core.tc.timers.posix}
    return signals.numbers_of(_queues(cores)) | timers


def _sigmask(core: CoreEntry) -> int:
    return core.tc.blk_sigset if core.HasField("tc") else core.thread_core.blk_sigset


def _steps(
    images: ImageSet,
    names: MappedNames,
    entry: PstreeEntry,
    cores: dict[int, CoreEntry],
    states: dict[int, ThreadState],
    launcher_bounding: int,
    files: FilePlan,
) -> Iterator[Step]:
    pid = entry.pid
    leader = process_tree.leader_core(images, pid)
    mm = images.one(kinds.MM, pid) if images.has(kinds.MM, pid) else None  # None: another one's, who sets it up
    others = [(tid, cores[tid]) for tid in entry.threads if tid != pid]
    task = _plan_task(pid, leader, mm, images.one(kinds.FS, pid), names, files.taken)
    yield Step(Stage.RESTORE, pid, task + files.program)
    yield Step(Stage.RESTORE, pid, thread.plan_clone(others))
    yield Step(Stage.RESTORE, pid, thread.plan_leader(leader))
    if not entry.ppid:
        yield Step(Stage.RESTORE, pid, sysv_ipc.plan(images))
    yield Step(Stage.RESTORE_SIGCHLD, pid, terminal.plan_foreground(masters(images), pid))
    for tid, core in cores.items():
        plan = _plan_thread(core, states[tid], leader) if tid in states else thread.plan_ended(leader)
        yield Step(Stage.RESTORE, tid, plan)
    timers = leader.tc.timers.posix
    yield Step(Stage.RESTORE, pid, posix_timers.plan_create(timers, chosen_ids=posix_timers.probe_chosen_ids()))
    ids = [timer.it_id for timer in timers]
    yield Step(
        Stage.RESTORE_SIGCHLD, pid, files.close_program + signals.plan_queue(leader.tc.signals_s, pid, timers=ids)
    )
    for tid, core in cores.items():
        yield Step(Stage.RESTORE_SIGCHLD, tid, signals.plan_queue(core.thread_core.signals_p, pid, tid, timers=ids))
    if mm is not None:
        yield Step(Stage.RESTORE_CREDS, pid, vma_marks.plan(mm))
    yield from _rights_steps(images, cores, states, pid, launcher_bounding, files)
    first, *others_sealed = states
    for tid in others_sealed:
        yield Step(Stage.SEAL, tid, _plan_seal(cores[tid], is_root=not entry.ppid))
    yield Step(
        Stage.SEAL, first,
        (vma_marks.plan_seal(mm) + address_space.plan_dumpable(mm) if mm is not None else ())
        + _plan_seal(cores[first], is_root=not entry.ppid)
        + process_settings.plan_seal(leader.tc, mm),
    )  # fmt: skip


def _rights_steps(
    images: ImageSet, cores: Mapping[int, CoreEntry], living: Collection[int], pid: int, launcher_bounding: int,
    files: FilePlan,
) -> Iterator[Step]:  # fmt: skip
    """One program per thread: seccomp while the task may, timers, credentials."""
    armed = _plan_posix_timers(cores, pid, clock_offsets(images).by_clock())
    filters = images.one(kinds.SECCOMP) if images.has(kinds.SECCOMP) else SeccompEntry()
    secure = seccomp.plan_all(filters, {tid: cores[tid].thread_core for tid in living}, pid)
    for tid, core in cores.items():
        late = files.late_program + signals.plan_timers(core.tc.timers) if tid == pid else ()
        rights = credentials.plan(core.thread_core.creds, launcher_bounding)
        yield Step(Stage.RESTORE_CREDS, tid, secure[tid] + late + armed.get(tid, ()) + rights)


def _plan_seal(core: CoreEntry, *, is_root: bool) -> Program:
    """The root's parent stays behind; here it is a keeper that ends, and that must not kill what was moved."""
    death = () if is_root else thread.plan_parent_death(core.thread_core)
    return death + thread_settings.plan_speculation(core.thread_core)


def clock_offsets(images: ImageSet) -> Clocks:
    """How far the tree's clocks have to be set forward on this host; the same whenever it is asked."""
    if not images.has(kinds.TIMENS, time_namespace.IMAGE_ID):
        return NO_OFFSETS
    return time_namespace.offsets_here(images.one(kinds.TIMENS, time_namespace.IMAGE_ID))


def _plan_posix_timers(cores: Mapping[int, CoreEntry], pid: int, offsets: Mapping[int, int]) -> dict[int, Program]:
    queues = _queues(cores)
    expired = {id for queue in queues for id in signals.expired_timers(queue)}
    return posix_timers.plan_all(cores[pid].tc.timers.posix, expired, signals.numbers_of(queues), pid, offsets)


def _plan_task(
    pid: int, leader: CoreEntry, mm: MmEntry | None, fs: FsEntry, names: MappedNames, taken: frozenset[int]
) -> Program:
    """`taken`: descriptors that it has already, made by another who shares its table."""
    memory: Program = ()
    if mm is not None:
        memory = address_space.plan(mm, names.path_of(mm.exe_file_id), FdAllocator(set(taken)))
        memory += aio.plan(mm, pid, FdAllocator(set(taken)))
    return (
        process_tree.plan_personality(leader.tc.personality)
        + memory
        + signals.plan_actions(leader.tc.sigactions)
        + process_tree.plan_fs(names.path_of(fs.cwd_id), fs.umask)
        + process_settings.plan(leader.tc)
    )


def _plan_thread(core: CoreEntry, state: ThreadState, leader: CoreEntry) -> Program:
    comm = core.thread_core.comm or (core.tc.comm if core.HasField("tc") else leader.tc.comm)
    plan = thread.plan(core, state, comm) + signals.plan_stack(core.thread_core.sas)
    return plan + thread_settings.plan(core.thread_core)


def threads_made(plan: TaskPlan) -> Sequence[int]:
    """Threads besides the leader, in the order in which the plan makes them."""
    return [tid for tid in plan.tids if tid != plan.pid]
