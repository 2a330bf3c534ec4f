"""A tree of skeletons: born in the order that sessions and groups need, furnished, completed stage by stage, let go.

A failure in any task at any stage ends all of them: nothing of a tree stays behind.
"""

import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Final

from core.action_scripts import NO_SCRIPTS, Action, ActionScripts
from core.build import Skeleton, explained, run_stage, set_registers
from core.errors import MigrateError
from core.images.store import ImageSet
from core.kernel import ptrace
from core.kernel.calls import prlimit
from core.kernel.threads import ThreadBlock
from core.memory.landing import LandingMemory
from core.memory.ranges import EMPTY, Ranges
from core.memory_plan import MemoryPlan, as_vmas
from core.options import PidMode
from core.plan.births import CLONE_VM, Act, Birth, TaskShape, plan_births
from core.plan.encode import assembled
from core.plan.ops import Out, Syscall, path_argument
from core.proc.maps import Vma
from core.proc.reader import ProcReader
from core.resources.ghost_store import GhostStore
from core.resources.segment_store import SegmentStore
from core.resources.terminal import plan_controlling
from core.resources.terminal_store import TerminalStore
from core.resources.time_namespace import NO_OFFSETS, Clocks, notice, read_offsets
from core.resources.vmas import MappedVma
from core.task_plan import Stage, TreePlan
from core.tracee.borrow import all_but
from core.tracee.orphans import reaping
from core.tracee.stem import Stem, end_leader, make_stem
from core.tracee.stem_fork import fork_stem
from core.tracee.together import Work, run_together

PR_SET_NAME: Final = 15
PR_SET_CHILD_SUBREAPER: Final = 36
WALL: Final = 0x40000000
RLIMIT_CORE: Final = 4
NOTHING_BUT_KILL: Final = (1 << 64) - 1
SIGCHLD_ONLY: Final = (1 << (signal.SIGCHLD - 1)).to_bytes(8, "little")
NOTHING: Final[Mapping[int, Ranges]] = {}
STAGES: Final = (Stage.RESTORE, Stage.RESTORE_SIGCHLD, Stage.RESTORE_CREDS, Stage.SEAL)


class SkeletonTree:
    """All tasks of a tree by the pid they call themselves, parents before children."""

    def __init__(
        self,
        reader: ProcReader,
        pid_mode: PidMode = "keep",
        cgroup_fd: int = -1,
        offsets: Clocks = NO_OFFSETS,
        scripts: ActionScripts = NO_SCRIPTS,
        *,
        segments: SegmentStore,
        terminals: TerminalStore,
    ) -> None:
        self._reader = reader
        self._segments = segments
        self._terminals = terminals
        self._pid_mode: PidMode = pid_mode
        self._cgroup_fd = cgroup_fd
        self._offsets = offsets
        self._scripts = scripts
        self._avoid: list[Vma] = []  # where our areas may not be
        self.skeletons: dict[int, Skeleton] = {}

    @property
    def root(self) -> Skeleton:
        """The first task."""
        return next(iter(self.skeletons.values()))

    def make(self, shapes: Sequence[TaskShape], memories: Mapping[int, MemoryPlan]) -> None:
        """All of it at once, nothing in common. On any error none is left."""
        self.cast(shapes[0].pid, memories)
        self.bear(shapes, memories)

    def cast(self, pid: int, memories: Mapping[int, MemoryPlan], mould: Sequence[MappedVma] = ()) -> LandingMemory:
        """The first task, with what several tasks have in common mapped: its pages may land. On any error none is left.

        `memories`: the address spaces that the tasks will have.
        """
        self._avoid = avoid = [*as_vmas(mould), *(vma for memory in memories.values() for vma in memory.as_vmas())]
        try:
            stem = make_stem(pid, avoid, self._reader, self._cgroup_fd, self._pid_mode, self._timens())
            self.skeletons[pid] = Skeleton(stem, self._reader, self._segments)
            self.root.cast(mould, avoid)
            for action in (Action.SETUP_NAMESPACES, Action.POST_SETUP_NAMESPACES):
                self._scripts.run(action, stem.pid)
            return self.root.landing_memory()
        except BaseException as error:
            self.kill()
            raise explained(error) from error

    def bear(
        self, shapes: Sequence[TaskShape], memories: Mapping[int, MemoryPlan], kept: Mapping[int, Ranges] = NOTHING
    ) -> list[int]:
        """Bear every other task of `shapes` and give the living ones their address spaces, in which they keep `kept` of
        the mould's pages; the tasks that could not keep them and have none. On any error none is left. Of tasks that
        share their memory one alone is in `memories`.
        """
        self._avoid += [vma for memory in memories.values() for vma in memory.as_vmas()]
        try:
            for birth in plan_births(shapes):
                self._act(birth)
            keeping = {
                pid: self.skeletons[pid].furnish(memory, kept.get(pid, EMPTY)) for pid, memory in memories.items()
            }
            return [pid for pid, has_all in keeping.items() if not has_all]
        except BaseException as error:
            self.kill()
            raise explained(error) from error

    def _timens(self) -> str:
        """Offsets of the tree's own time namespace, which count from the host's clocks; none: it stays in ours."""
        if not self._offsets:
            return ""
        return read_offsets(self._reader, os.getpid()).plus(self._offsets).as_timens_offsets()

    def _act(self, birth: Birth) -> None:
        match birth.act:
            case Act.FORK:
                parent = self.skeletons[birth.by]
                stem = fork_stem(parent.stem, birth.pid, self._reader, birth.flags, self._avoid)
                kernels = parent.kernels if birth.flags & CLONE_VM else None
                self.skeletons[birth.pid] = Skeleton(stem, self._reader, self._segments, parent.mapped, kernels)
            case Act.SETSID:
                self._run(birth.pid, Syscall("setsid", (), f"session of pid {birth.pid}"))
            case Act.TERMINAL:
                path = self._terminals.path(birth.terminal)
                self.skeletons[birth.pid].stem.run(plan_controlling(path))
            case Act.SETPGID:
                self._run(birth.pid, Syscall("setpgid", (0, birth.group), f"process group {birth.group}"))
            case Act.ADOPT | Act.UNADOPT:
                on = int(birth.act is Act.ADOPT)
                self._run(birth.pid, Syscall("prctl", (PR_SET_CHILD_SUBREAPER, on, 0, 0, 0), "child subreaper"))
            case Act.EXIT:
                own_pid = self.skeletons[birth.pid].stem.own_pid
                self._end(birth.pid, 0)
                self._run(birth.by, Syscall("wait4", (own_pid, 0, WALL, 0), f"helper {own_pid}"))

    def _run(self, pid: int, op: Syscall) -> None:
        self.skeletons[pid].stem.run((op,))

    def _end(self, pid: int, exit_code: int) -> None:
        """The task ends as wait(2)'s `exit_code` says; its parent has not waited for it."""
        skeleton = self.skeletons.pop(pid)
        end_task(skeleton.stem, exit_code)
        skeleton.close()

    def complete(self, plan: TreePlan, images: ImageSet, ghosts: GhostStore) -> list[str]:
        """Run every stage in every task, barrier by barrier; all of them then stand whole in a ptrace stop."""
        notices = [notice(self._offsets)] if self._offsets else []
        notices += self._notice_namespace(len(plan.tasks) - 1)
        made = [(self.skeletons[task.pid], task) for task in plan.tasks]
        try:
            for stage in STAGES:
                if stage is Stage.RESTORE_SIGCHLD:
                    self._bury(plan)
                if stage is Stage.SEAL:  # a child's parent-death signal would take this for its parent's end
                    self._end_leaders(plan)
                with ghosts.shown(images) if stage is Stage.RESTORE else nullcontext():
                    notices += run_stage(made, stage, images, self._reader)
                if stage is Stage.RESTORE:  # who watches the files (inotify) is not told that we close them
                    ghosts.close()
            self._segments.settle()
            notices += self._terminals.settle(images)
            set_registers(made, self._reader)
            ghosts.unlink_remaps(images)
        except (MigrateError, OSError) as error:
            raise explained(error) from error
        return notices

    def _notice_namespace(self, others: int) -> list[str]:
        stem = self.root.stem
        if not stem.init_pid:
            return []
        more = f", and {others:,} below it with others too" if others else ""
        return [f"pid {stem.own_pid} is {stem.pid} on {os.uname().nodename}, inside a PID namespace of its own{more}"]

    def ask_scripts(self) -> None:
        """Everything stands whole: the last moment at which a script can prevent that it runs."""
        for action in (Action.POST_RESTORE, Action.NETWORK_UNLOCK, Action.PRE_RESUME):
            self._scripts.run(action, self.root.stem.pid)

    def _bury(self, plan: TreePlan) -> None:
        """Zombies become zombies; what that told their parents is taken back, it was told long ago."""
        for pid, (comm, exit_code) in plan.dead.items():
            self._run(pid, Syscall("prctl", (PR_SET_NAME, path_argument(comm), 0, 0, 0), f"name {comm!r}"))
            self._end(pid, exit_code)
        if not plan.dead and len(plan.tasks) == len(plan.shapes) == 1:
            return
        drained = Syscall("rt_sigtimedwait", (SIGCHLD_ONLY, Out(128), bytes(16), 8), "SIGCHLD", may_fail=True)
        program = assembled((drained,))
        stems = [skeleton.stem for skeleton in self.skeletons.values()]
        run_together([Work(stem.borrow, ThreadBlock.of([stem.leader]), {0: program}) for stem in stems])

    def _end_leaders(self, plan: TreePlan) -> None:
        """First threads that had ended before the others end here too."""
        for task in plan.tasks:
            if task.leader_status is not None:
                end_leader(self.skeletons[task.pid].stem, task.leader_status, self._reader)

    def tids(self) -> list[int]:
        """Every thread as we see it."""
        return [state.tid for skeleton in self.skeletons.values() for state in skeleton.stem.threads.values()]

    def let_go(self) -> None:
        """Detach: the tree runs, or freezes where its cgroup says so, from its restored registers on."""
        ptrace.detach(self.tids())
        for skeleton in self.skeletons.values():
            skeleton.close()

    def kill(self) -> None:
        """End every task, children first. Idempotent."""
        skeletons = list(reversed(self.skeletons.values()))
        self.skeletons.clear()
        with reaping([skeleton.stem.pid for skeleton in skeletons if skeleton.stem.init is None]):
            for skeleton in skeletons:
                skeleton.kill()


def end_task(stem: Stem, exit_code: int) -> None:
    """Let a stem end with this wait(2) status; it stays a zombie until its parent waits for it."""
    number = exit_code & 0x7F
    if number:
        die_of(stem, number)
    else:
        stem.borrow.start(stem.leader, (Syscall("exit_group", (exit_code >> 8,), "zombie"),), NOTHING_BUT_KILL)
    ptrace.reap_killed([stem.pid])


def die_of(stem: Stem, number: int) -> None:
    """Let a stem be killed by a signal, which has its default action; no core is written."""
    prlimit(stem.pid, RLIMIT_CORE, (0, 0))
    stem.borrow.start(stem.leader, (Syscall("tkill", (stem.own_pid, number), "zombie"),), all_but(number))
    if number == signal.SIGKILL:
        return
    while (stop := ptrace.wait_stop(stem.pid)).is_interrupt or stop.signal != number:
        ptrace.resume(stem.pid)
    ptrace.resume(stem.pid, signal_number=number)
