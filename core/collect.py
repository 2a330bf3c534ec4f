"""Turns one frozen process into an image set (without its pages): asks it what only it can tell, reads the rest.

A table of contents over core/resources; nothing here stops, maps or releases anything.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from core.errors import CollectError, Refused
from core.ids.shared import SharedIds
from core.images import kinds
from core.images.inventory import make_inventory
from core.images.pb.core_pb2 import CoreEntry, TaskCoreEntry
from core.images.pb.filesystem_pb2 import FsEntry
from core.images.pb.ids_pb2 import TaskKobjIdsEntry
from core.images.pb.memory_pb2 import MmEntry, VmaEntry
from core.images.pb.namespaces_pb2 import TimensEntry
from core.images.pb.signals_pb2 import SignalQueueEntry
from core.images.store import ImageSet
from core.kernel import ptrace
from core.kernel.ptrace import ThreadState
from core.options import DumpOptions
from core.plan.ops import Program, Syscall
from core.plan.segments import SegmentKind, SegmentUse
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.proc.status import Status
from core.proc.timers import PosixTimer
from core.resources import (
    address_space,
    credentials,
    file_table,
    posix_timers,
    process_settings,
    process_tree,
    refused,
    registers,
    scheduling,
    seccomp,
    signals,
    thread,
    thread_settings,
    time_namespace,
    vmas,
)
from core.resources.ghost_file import Ghosts
from core.resources.named_files import O_DIRECTORY, NamedFiles, Nameless
from core.resources.shared_memory import Segments
from core.tracee.borrow import Borrow, Results
from core.tracee.freezer import FrozenProcess


@dataclass(frozen=True, slots=True)
class Subject:
    """What is collected: a frozen process that lends us `borrow`, its VMAs now and their VmFlags by start address."""

    frozen: FrozenProcess
    borrow: Borrow
    vmas: Sequence[Vma]
    vma_flags: dict[int, frozenset[str]]
    reader: ProcReader
    pidfd: int
    own_pid: int
    statuses: dict[int, Status]  # of every thread, by tid as we see it
    parent: int = 0  # as the tree itself calls it; 0 for the root

    @property
    def pid(self) -> int:
        """Its process id as we see it."""
        return self.frozen.pid

    def own_tid(self, tid: int) -> int:
        """What the thread calls itself."""
        return self.statuses[tid].ns_pid[-1]


@dataclass(frozen=True, slots=True)
class _ThreadAnswers:
    state: ThreadState
    status: Status
    asked: "_ThreadQuestions"
    results: Results


class _ThreadQuestions:
    """Everything asked of one thread; the leader is asked for the process too."""

    def __init__(self, *, leader: bool, timers: Sequence[PosixTimer]) -> None:
        self.stack = signals.stack_question()
        self.securebits = credentials.securebits_question()
        self.thread = thread.thread_questions()
        self.settings = thread_settings.SettingQuestions()
        self.marks = refused.ThreadMarks()
        self.process = signals.process_questions() if leader else None
        self.timers = posix_timers.timer_questions(timers if leader else ())
        self.process_settings = process_settings.ProcessSettingQuestions()
        self.process_marks = refused.ProcessMarks()
        self.mm = address_space.MmQuestions() if leader else None

    @property
    def program(self) -> Program:
        ops: tuple[Syscall, ...] = (self.stack, self.securebits, *self.thread.program)
        ops += self.settings.program + self.marks.program
        if self.process and self.mm:
            ops += self.process.program + self.timers.program + self.mm.program
            ops += self.process_settings.program + self.process_marks.program
        return ops


def collect_mm(
    pid: int, vma_list: Sequence[Vma], flags: dict[int, frozenset[str]], files: NamedFiles, ghosts: Ghosts,
    segments: Segments,
) -> list[VmaEntry]:  # fmt: skip
    """Entries of all VMAs; files they map are added to `files` and `ghosts`, other shared memory to `segments`."""
    entries, reader = [], ProcReader()
    for vma in vma_list:
        use = None
        if (segment := segments.mapped(pid, vma)) is not None:
            use = segments.describe(segment, files.images)
            if use.kind is SegmentKind.MEMFD:
                use = replace(use, shmid=files.add_memfd(segment.id))
        elif (ghost := ghosts.add_mapped(pid, vma, reader, writable=_may_write(vma, flags))) is not None:
            tell = partial(ghosts.describe_as, files.images, ghost=ghost)
            found = os.fstat(ghost.fd)
            use = SegmentUse(SegmentKind.FILE, files.add_ghost(ghost.id, ghost.path, found, tell), found.st_size)
        elif vma.path.startswith("/"):
            files.add(vma.path)
        entries.append(vmas.collect(vma, flags_of(vma, flags), files.ids, use))
    return entries


def _may_write(vma: Vma, flags: dict[int, frozenset[str]]) -> bool:
    return vma.shared and (vma.writable or "mw" in flags_of(vma, flags))


def flags_of(vma: Vma, flags: dict[int, frozenset[str]]) -> frozenset[str]:
    """VmFlags of a VMA as last read, none for one that is new."""
    return flags.get(vma.start, frozenset())


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
    subjects: Sequence[Subject], zombies: Sequence[Zombie], options: DumpOptions, ghosts: Ghosts, segments: Segments
) -> ImageSet:
    """Everything about the frozen processes of a tree but their pages; the root first, parents before children.

    What deleted files and shared memory hold is left out too: they are in `ghosts` and `segments`.
    """
    images = ImageSet()
    ids = SharedIds()
    named = NamedFiles(images, f"/proc/{subjects[0].pid}/root", ids.next_file_id)
    kobj_ids = [_collect_ids(subject, ids) for subject in subjects]
    images.add(kinds.INVENTORY, make_inventory(kobj_ids[0], root_cg_set=process_tree.CGROUP_SET))
    _collect_tables(subjects, kobj_ids, images, ids, options, ghosts, segments, zombies)
    images.add(kinds.TIMENS, collect_clocks(subjects[0].reader, [one.pid for one in subjects]), time_namespace.IMAGE_ID)
    filters = seccomp.Filters()
    for subject, entry in zip(subjects, kobj_ids, strict=True):
        nameless = partial(ghosts.describe, images, subject.reader.path(subject.pid, "root"))
        _collect_process(subject, images, named, entry, filters, nameless, ghosts, segments)
    if filters.entry.seccomp_filters:
        images.add(kinds.SECCOMP, filters.entry)
    for zombie in zombies:
        images.add(
            kinds.PSTREE, process_tree.collect_zombie_pstree(zombie.own_pid, zombie.parent, zombie.pgid, zombie.sid)
        )
        images.add(kinds.CORE, process_tree.collect_zombie_core(zombie.comm, zombie.exit_code), zombie.own_pid)
    if blockers := segments.refuse_attached():
        raise Refused(blockers)
    return images


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
) -> None:
    """Descriptor tables of all tasks, each once."""
    owners = {entry.files_id: subject for subject, entry in reversed(list(zip(subjects, kobj_ids, strict=True)))}
    tables = [file_table.TaskTable(one.pid, one.pidfd, files_id) for files_id, one in reversed(owners.items())]
    file_table.collect_tables(
        tables,
        subjects[0].reader,
        images,
        options=options,
        ids=ids,
        ghosts=ghosts,
        segments=segments,
        dead=[zombie.own_pid for zombie in zombies],
    )


def _collect_ids(subject: Subject, ids: SharedIds) -> TaskKobjIdsEntry:
    pid = subject.pid
    vm, is_new = ids.vm(pid)
    if not is_new:
        raise CollectError(f"pid {pid}", "shares its memory with another process (CLONE_VM), which is not carried yet")
    return process_tree.collect_ids(vm=vm, files=ids.files(pid)[0], fs=ids.fs(pid)[0], sighand=ids.sighand(pid)[0])


def _collect_process(
    subject: Subject, images: ImageSet, named: NamedFiles, ids: TaskKobjIdsEntry, filters: seccomp.Filters,
    nameless: Nameless, ghosts: Ghosts, segments: Segments,
) -> None:  # fmt: skip
    answers = _ask(subject)
    images.add(kinds.IDS, ids, subject.own_pid)
    images.add(kinds.PSTREE, process_tree.collect_pstree(_identity(subject, answers[0].status)))
    images.add(kinds.MM, _collect_address_space(subject, answers[0], named, ghosts, segments), subject.own_pid)
    images.add(kinds.FS, _collect_fs(subject, answers[0].status, named, nameless), subject.own_pid)
    for answer in answers:
        images.add(kinds.CORE, _collect_core(subject, answer, filters), subject.own_tid(answer.state.tid))


def _ask(subject: Subject) -> list[_ThreadAnswers]:
    pid = subject.pid
    timers = subject.reader.timers(pid)
    leader, other = (_ThreadQuestions(leader=one, timers=timers) for one in (True, False))
    asked = [leader if state.tid == pid else other for state in subject.frozen.threads]
    jobs = [(state, questions.program) for state, questions in zip(subject.frozen.threads, asked, strict=True)]
    results = subject.borrow.run_many(jobs)
    return [
        _ThreadAnswers(state, subject.statuses[state.tid], questions, result)
        for state, questions, result in zip(subject.frozen.threads, asked, results, strict=True)
    ]


def _identity(subject: Subject, status: Status) -> process_tree.TaskIdentity:
    return process_tree.TaskIdentity(
        pid=subject.own_pid,
        ppid=subject.parent,
        pgid=status.ns_pgid[-1] if status.ns_pgid else subject.own_pid,
        sid=status.ns_sid[-1] if status.ns_sid else subject.own_pid,
        tids=tuple(subject.own_tid(state.tid) for state in subject.frozen.threads),
    )


def _collect_address_space(
    subject: Subject, leader: _ThreadAnswers, named: NamedFiles, ghosts: Ghosts, segments: Segments
) -> MmEntry:
    pid = subject.pid
    if leader.asked.mm is None:
        raise CollectError(f"pid {pid}", "its leader was not asked for its address space")
    exe = named.add(subject.reader.exe(pid))
    entries = collect_mm(pid, subject.vmas, subject.vma_flags, named, ghosts, segments)
    auxv = subject.reader.auxv(pid)
    mm = address_space.collect(subject.reader.stat(pid), auxv, entries, exe, leader.asked.mm, leader.results)
    coredump_filter = subject.reader.coredump_filter(pid)
    process_settings.collect_mm(leader.asked.process_settings, leader.results, coredump_filter, mm)
    return mm


def _collect_fs(subject: Subject, status: Status, named: NamedFiles, nameless: Nameless) -> FsEntry:
    cwd = named.add_directory(subject.reader.cwd(subject.pid), subject.reader.path(subject.pid, "cwd"), nameless)
    root = named.add(subject.reader.root(subject.pid), O_DIRECTORY)
    return FsEntry(cwd_id=cwd, root_id=root, umask=status.umask)


def _collect_core(subject: Subject, answer: _ThreadAnswers, filters: seccomp.Filters) -> CoreEntry:
    state = answer.state
    refused.check_thread(state, answer.asked.marks, answer.results)
    core = CoreEntry(mtype=CoreEntry.X86_64)
    core.thread_info.CopyFrom(registers.collect(state, thread.clear_child_tid(answer.asked.thread, answer.results)))
    core.thread_core.CopyFrom(
        process_tree.collect_thread_core(state, registers.trimmed_xstate(state.xstate), answer.status.name)
    )
    core.thread_core.sas.CopyFrom(signals.collect_stack(answer.asked.stack, answer.results))
    core.thread_core.creds.CopyFrom(credentials.collect(answer.status, answer.results.value(answer.asked.securebits)))
    core.thread_core.pdeath_sig = thread.parent_death_signal(answer.asked.thread, answer.results)
    core.thread_core.signals_p.CopyFrom(_collect_queue(state.tid, answer.status.sig_pending, shared=False))
    scheduling.collect(state.tid, core.thread_core)
    thread_settings.collect(answer.asked.settings, answer.results, core.thread_core)
    seccomp.collect(state.tid, answer.status.seccomp or 0, filters, core.thread_core)
    if answer.asked.process is not None:
        core.tc.CopyFrom(_collect_task(subject, answer, answer.asked.process))
    return core


def _collect_queue(tid: int, pending: int, *, shared: bool) -> SignalQueueEntry:
    """Read only where something is pending."""
    queued = ptrace.peek_signals(tid, shared=shared) if pending else []
    return signals.collect_queue(queued, pending)


def _collect_task(subject: Subject, answer: _ThreadAnswers, questions: signals.ProcessQuestions) -> TaskCoreEntry:
    pid, reader = subject.pid, subject.reader
    refused.check_process(pid, answer.asked.process_marks, answer.results)
    task = process_tree.collect_task_core(
        answer.status.name,
        reader.stat(pid).flags,
        reader.personality(pid),
        answer.state.sigmask,
        subject.frozen.stop_signal,
    )
    task.sigactions.extend(signals.collect_actions(questions, answer.results))
    task.signals_s.CopyFrom(_collect_queue(pid, answer.status.shared_pending, shared=True))
    task.timers.CopyFrom(signals.collect_timers(questions, answer.results))
    task.timers.posix.extend(
        posix_timers.collect(
            answer.asked.timers, answer.results, {tid: subject.own_tid(tid) for tid in subject.statuses}
        )
    )
    task.rlimits.CopyFrom(scheduling.collect_limits(reader.limits(pid)))
    task.oom_score_adj = reader.oom_score_adj(pid)
    process_settings.collect(answer.asked.process_settings, answer.results, task)
    task.autogroup_nice = _autogroup_nice(subject)
    return task


def _autogroup_nice(subject: Subject) -> int:
    try:
        return process_settings.parse_autogroup_nice(subject.reader.text(subject.pid, "autogroup"))
    except FileNotFoundError:
        return 0
