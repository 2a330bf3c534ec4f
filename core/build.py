"""Makes a task out of a stem by a TaskPlan, up to the point where only "run" is left to say.

Used by `restore` (from a directory) and by the live destination (from pages that have landed already).
"""

import os
import resource
import signal
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Final, TypeAlias

from core.errors import Blocker, MigrateError, Refused, RemoteSyscallError, RestoreError
from core.images import kinds
from core.images.store import ImageSet
from core.kernel import ptrace
from core.kernel.calls import all_limits, prlimit
from core.kernel.capabilities import capability_names
from core.kernel.hugetlb import HUGE_PAGE
from core.kernel.thread_facts import read_facts
from core.kernel.threads import ThreadBlock, ThreadState
from core.memory.landing import LandingMemory
from core.memory.ranges import EMPTY, Ranges
from core.memory_plan import MemoryPlan, as_vmas
from core.plan.encode import assemble, assembled, split
from core.plan.ops import Program, Syscall
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.proc.status import Status
from core.resources import credentials, file_presence, file_table, process_tree, scheduling, seccomp, vmas
from core.resources.segment_store import SegmentStore
from core.resources.vmas import MappedVma
from core.task_plan import Stage, TaskPlan, threads_made
from core.tracee.borrow import Borrow
from core.tracee.handing import hand_over
from core.tracee.spawn import OPTIONS
from core.tracee.stem import Stem, remove_areas
from core.tracee.together import Work, run_alike, run_together
from core.vdso.layout import read_vdso_layout
from core.vdso.place import plan_aside, plan_vdso

RLIMIT_SIGPENDING: Final = 11
MADV_DONTNEED: Final = 4
MANY: Final = 8  # threads for which a call for all of them pays
PROGRAM_BYTES: Final = 2 << 20  # of a task's program at a time: well below what our area in it holds


@dataclass(slots=True)
class Kernels:
    """Of an address space, what came with this kernel's vDSO."""

    reserved: Ranges = EMPTY  # what the task knows nothing of, besides our areas
    overwritten: Ranges = EMPTY  # of its vDSO


class Skeleton:
    """A stem with the address space of one mm of the target, kept up to date while pages land in it.

    Of several that share one (`kernels` of the one that it was born of) one alone is given VMAs and pages.
    """

    def __init__(
        self, stem: Stem, reader: ProcReader, segments: SegmentStore, inherited: Sequence[MappedVma] = (),
        kernels: Kernels | None = None,
    ) -> None:  # fmt: skip
        self.stem = stem
        self._segments = segments
        self._reader = reader
        self.mapped = tuple(inherited)
        self.landing: LandingMemory | None = None
        self.kernels = kernels or Kernels()

    def cast(self, mould: Sequence[MappedVma], avoid: Sequence[Vma]) -> None:
        """Before anybody is born of it: give it what several tasks have in common, and keep clear of `avoid`."""
        try:
            self.stem.run(plan_aside(self._reader.maps(self.stem.pid), [*avoid, *as_vmas(mould)]))
            self.update(mould)
            self.landing = LandingMemory(self.stem.pid, anonymous_ranges(mould))
        except MigrateError as error:
            raise explained(error) from error

    def furnish(self, memory: MemoryPlan, kept: Ranges = EMPTY) -> bool:
        """Give it the address space of its task: of what it inherited at its birth the pages `kept`, nothing else.

        False: these cannot be kept, and it has no page at all.
        """
        try:
            inherited = vmas.compare(self.mapped, memory.mapped).stays
            self.update(memory.mapped)
            here = self._reader.maps(self.stem.pid)
            vdso = plan_vdso(here, memory.kernel, memory.vdso, memory.as_vmas(), read_vdso_layout())
            self.stem.run(vdso.program)
            for address, content in vdso.content:
                self.stem.memory.write(address, content)
            self.kernels.reserved, self.kernels.overwritten = vdso.reserved, vdso.overwritten
            has_all = not kept.subtract(inherited)
            self.drop(inherited.subtract(kept) if has_all else inherited)
            if self.landing is None:
                self.landing = LandingMemory(self.stem.pid, anonymous_ranges(memory.mapped), huge_ranges(memory.mapped))
        except MigrateError as error:
            raise explained(error) from error
        return has_all

    def update(self, mapped: Sequence[MappedVma]) -> None:
        """Bring the VMAs up to `mapped`; what stays mapped keeps its pages."""
        if mapped is self.mapped:
            return
        ours = self.kernels.reserved.union(Ranges.of((area.address, area.end) for area in self.stem.areas))
        if any(ours.overlaps(vma.start, vma.end) for vma in mapped):
            raise RestoreError(f"pid {self.stem.own_pid}: mapped memory where the restorer's area lies; try again")
        needed = vmas.descriptors_needed(self.mapped, mapped)
        fds = [self._segments.fd(id, writable=bool(access)) for id, access in needed]
        handed = dict(zip(needed, hand_over(self.stem, fds), strict=True))
        self.stem.run(vmas.plan_update(self.mapped, mapped, self.stem.fds, handed))
        self.mapped = tuple(mapped)
        if self.landing is not None:
            self.landing.anonymous, self.landing.huge = anonymous_ranges(mapped), huge_ranges(mapped)

    def let_go_of(self, segments: Collection[int]) -> None:
        """Unmap what it has of these."""
        left = [vma for vma in self.mapped if vma.segment not in segments]
        if len(left) < len(self.mapped):
            self.update(left)

    def hand(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Give it descriptors of segments: (id, number), ascending by number; below those its table is empty."""
        numbers = hand_over(self.stem, [self._segments.fd(id, writable=True) for id, _ in wanted])
        moves = [(number, to) for number, (_, to) in zip(numbers, wanted, strict=True) if number != to]
        down = [move for move in moves if move[1] < move[0]]
        ordered = down + [move for move in reversed(moves) if move not in down]  # none onto one that is still to move
        why = "descriptors of memfds"
        self.stem.run(
            tuple(
                op
                for number, to in ordered
                for op in (Syscall("dup3", (number, to, os.O_CLOEXEC), why), Syscall("close", (number,), why))
            )
        )
        for number in numbers:
            self.stem.fds.release(number)

    def drop(self, gone: Ranges) -> None:
        """Give up pages that landed: the target has given them up since."""
        if not gone:
            return
        mine = gone.intersect(Ranges.of((vma.start, vma.end) for vma in self.mapped if vmas.carries_pages(vma.entry)))
        # Huge pages come and go whole; what was zero in them never came.
        mine = mine.union(mine.intersect(huge_ranges(self.mapped)).widened(HUGE_PAGE))
        why = "pages that are gone"
        ops = tuple(Syscall("madvise", (start, end - start, MADV_DONTNEED), why) for start, end in mine)
        for part in split(ops, PROGRAM_BYTES):
            self.stem.run(part)

    def landing_memory(self) -> LandingMemory:
        """Where pages land."""
        if self.landing is None:
            raise RestoreError(f"pid {self.stem.own_pid}: takes no more pages")
        return self.landing

    def refuse_cut_short(self, threads: Iterable[ThreadState]) -> None:
        """RestoreError when one of them was stopped in the first instructions of what leads elsewhere now."""
        if any(self.kernels.overwritten.contains(thread.registers.ip) for thread in threads):
            raise RestoreError(
                f"pid {self.stem.own_pid}: a thread was stopped at the beginning of a function of its vDSO, which this "
                "kernel has otherwise",
                hint="try again with a new dump; let the process run before (SIGCONT) if it is stopped",
            )

    def close(self) -> None:
        """Give our descriptors back; the task stays."""
        self._close_landing()
        self.stem.memory.close()

    def kill(self) -> None:
        """End the task and give everything back."""
        self._close_landing()
        self.stem.kill()

    def _close_landing(self) -> None:
        if self.landing is not None:
            self.landing.close()
        self.landing = None


def anonymous_ranges(mapped: Sequence[MappedVma]) -> Ranges:
    """Where a page that is not there reads as zero."""
    return Ranges.of((vma.start, vma.end) for vma in mapped if vma.entry.status & vmas.ANON_PRIVATE)


def huge_ranges(mapped: Iterable[MappedVma]) -> Ranges:
    """Private memory of huge pages."""
    return Ranges.of((vma.start, vma.end) for vma in mapped if vma.is_private_huge)


def explained(error: BaseException) -> BaseException:
    """A failed op of a plan as the error of a restore, which it is."""
    if isinstance(error, RemoteSyscallError):
        return RestoreError(error.message, hint=error.hint)
    if isinstance(error, OSError):
        return RestoreError(error.strerror or str(error))
    return error


Made: TypeAlias = tuple[Skeleton, TaskPlan]
"""A task in the making, and what it is to become."""


def run_stage(tree: Sequence[Made], stage: Stage, images: ImageSet, reader: ProcReader) -> list[str]:
    """One stage of every task, in all of its threads. Returns notices."""
    notices: list[str] = []
    try:
        for tasks in waves(tree) if stage is Stage.RESTORE else [tree]:
            for one in tasks:
                notices += _begin_stage(one, stage, reader)
            _run_steps(tasks, stage, reader)
        if stage is Stage.RESTORE_SIGCHLD:
            for skeleton, plan in tree:
                with _naming(plan):
                    file_table.check_made(skeleton.stem.pid, reader, images, plan.files_id)
        return notices
    except MigrateError as error:
        raise explained(error) from error


def waves(tree: Sequence[Made]) -> Iterator[list[Made]]:
    """Tasks that may be filled at the same time, in the order of the tree: none takes descriptors from another."""
    wave: list[Made] = []
    pids: set[int] = set()
    for one in tree:
        plan = one[1]
        if wave and (not plan.is_simple or plan.owners & pids):
            yield wave
            wave, pids = [], set()
        wave.append(one)
        pids.add(plan.pid)
        if not plan.is_simple:
            yield wave
            wave, pids = [], set()
    if wave:
        yield wave


def _begin_stage(made: Made, stage: Stage, reader: ProcReader) -> list[str]:
    """What comes before the stage's programs. Returns notices."""
    skeleton, plan = made
    stem = skeleton.stem
    with _naming(plan):
        if stage is Stage.RESTORE:
            _raise_limits(stem.pid)
            skeleton.refuse_cut_short(plan.states.values())
            skeleton.hand(plan.handed)
        if stage is Stage.RESTORE_SIGCHLD:
            stem.borrow.yield_by(plan.yield_signal)
        if stage is Stage.RESTORE_CREDS:  # while the task still has our user id
            _suspend_seccomp(stem, plan)
            return _from_outside(stem, plan, reader)
    return []


@contextmanager
def _naming(plan: TaskPlan) -> Iterator[None]:
    """What the system refuses is said with the task that it was for."""
    try:
        yield
    except OSError as error:
        raise RestoreError(f"pid {plan.pid}: {error}") from error


def set_registers(tree: Sequence[Made], reader: ProcReader) -> None:
    """The last of it: our areas go, every thread gets its registers. All tasks then stand in a ptrace stop, whole."""
    remove_areas([skeleton.stem for skeleton, _ in tree], reader)
    for skeleton, plan in tree:
        threads = skeleton.stem.threads
        ptrace.write_threads([replace(state, tid=threads[tid].tid) for tid, state in plan.states.items()])
        if plan.stopped:  # once let go it acts upon this before its first instruction
            os.kill(skeleton.stem.pid, signal.SIGSTOP)


def refuse_files(images: ImageSet) -> None:
    """Refused when a file of the images is absent or different here, before anything is made of them."""
    if blockers := file_presence.verify(images, images.ids(kinds.FDINFO)):
        raise Refused(blockers)


def refuse_launcher(tasks: Sequence[TaskPlan], launcher: Status) -> None:
    """Refused when whoever restores has what a process cannot put off, or lacks capabilities that the tasks have."""
    creds = [core.thread_core.creds for task in tasks for core in task.cores.values()]
    reasons = []
    if launcher.seccomp:
        hint = "start it outside of the container or sandbox that filters system calls"
        reasons.append(("own-seccomp", "runs under a seccomp filter, which would be inherited", hint))
    if launcher.no_new_privs and not all(one.no_new_privs for one in creds):
        hint = "start it without (systemd: NoNewPrivileges=)"
        reasons.append(("own-no-new-privs", "has no_new_privs, which would be inherited", hint))
    lacking = reduce(or_, map(credentials.permitted, creds)) & ~launcher.cap_bnd
    if lacking:
        names = ", ".join(capability_names(lacking))
        reasons.append(("rights", f"lacks {names}, which the process has", "allow it to whoever starts migrate"))
    if reasons:
        raise Refused([Blocker(code, "migrate", reason, hint) for code, reason, hint in reasons])


def notice_bounding(task: TaskPlan, launcher: Status) -> list[str]:
    """Capabilities that the root's bounding set had and that we cannot give."""
    lacking = credentials.bounding(task.cores[task.pid].thread_core.creds) & ~launcher.cap_bnd
    names = ", ".join(capability_names(lacking))
    return [f"pid {task.pid}: its bounding set loses {names}: this command has them not"] if lacking else []


def _run_steps(tree: Sequence[Made], stage: Stage, reader: ProcReader) -> None:
    """The programs of all leaders; then those of the other threads, which these may have made."""
    leaders: list[Work] = []
    others: list[Work] = []
    alike: list[tuple[Borrow, ThreadBlock, Program]] = []
    for skeleton, plan in tree:
        stem, steps = skeleton.stem, [step for step in plan.steps if step.stage is stage]
        program = tuple(op for step in steps if step.tid == plan.pid for op in step.program)
        makes_threads = stage is Stage.RESTORE and len(plan.tids) > 1
        template = assemble(program) if program and len(tree) > 1 and not makes_threads else None
        if template is not None and len(template.content) <= PROGRAM_BYTES:
            leaders.append(Work(stem.borrow, ThreadBlock.of([stem.leader]), {0: template}))
        else:
            with _naming(plan):
                for part in split(program, PROGRAM_BYTES):
                    stem.run(part)
                if makes_threads:
                    _adopt(stem, plan, reader)
        siblings = [step for step in steps if step.program and step.tid != plan.pid]
        if not siblings:
            continue
        threads, programs = ThreadBlock.of([stem.threads[step.tid] for step in siblings]), [s.program for s in siblings]
        if len(programs) > MANY and all(program is programs[0] for program in programs):
            alike.append((stem.borrow, threads, programs[0]))
        else:
            others.append(Work(stem.borrow, threads, dict(enumerate(map(assembled, programs)))))
    for works in (leaders, others):
        if works:
            run_together(works)
    for borrow, threads, program in alike:
        run_alike(borrow, threads, 0, assembled(program))


def _adopt(stem: Stem, plan: TaskPlan, reader: ProcReader) -> None:
    own, made = {}, threads_made(plan)
    if stem.init is not None:  # they call themselves otherwise than we do
        statuses = reader.brief_statuses({stem.pid: reader.tids(stem.pid)})[stem.pid]
        own = {own_tid: tid for tid, own_tid in statuses.own_tids.items()}
    stem.adopt_threads(made, [own.get(tid, tid) for tid in made])


def _raise_limits(pid: int) -> None:
    """As many descriptors and queued signals as we may have; its own limits come later."""
    limits = all_limits(pid)
    for number in (resource.RLIMIT_NOFILE, RLIMIT_SIGPENDING):
        soft, hard = limits[number]
        if soft != hard:
            prlimit(pid, number, (hard, hard))


def _suspend_seccomp(stem: Stem, plan: TaskPlan) -> None:
    """Filters are installed soon, and are to let our own calls pass until the task is let go."""
    if seccomp.is_used([core.thread_core for core in plan.cores.values()]):
        for thread in stem.threads.values():
            ptrace.set_options(thread.tid, OPTIONS | ptrace.O_SUSPEND_SECCOMP)


def _from_outside(stem: Stem, plan: TaskPlan, reader: ProcReader) -> list[str]:
    """What is set by tid or through /proc rather than by the task itself."""
    leader = plan.cores[plan.pid]
    notices: list[str | None] = []
    tids = [stem.threads[tid].tid for tid in plan.states]
    for tid, own_tid, facts in zip(tids, plan.states, read_facts(tids), strict=True):
        notices += scheduling.apply(tid, plan.cores[own_tid].thread_core, facts.scheduling)
    notices += scheduling.apply_limits(stem.pid, leader.tc.rlimits)
    if leader.tc.HasField("oom_score_adj"):
        score = leader.tc.oom_score_adj
        if reader.oom_score_adj(stem.pid) != score:
            notices.append(process_tree.write_process_file(stem.pid, "oom_score_adj", str(score)))
    if plan.coredump_filter is not None and reader.coredump_filter(stem.pid) != plan.coredump_filter:
        notices.append(process_tree.write_process_file(stem.pid, "coredump_filter", f"{plan.coredump_filter:#x}"))
    if leader.tc.autogroup_nice:
        notices.append(process_tree.write_process_file(stem.pid, "autogroup", str(leader.tc.autogroup_nice)))
    return [notice for notice in notices if notice]
