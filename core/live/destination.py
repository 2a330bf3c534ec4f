"""The live destination: a skeleton in which pages land while the source runs, completed and parked after the freeze.

Speaks no protocol and journals nothing: that is migrate/keeper's.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from core import build
from core.action_scripts import Action
from core.errors import RestoreError
from core.images.store import ImageSet
from core.kernel.leftovers import adopt, sweep
from core.memory.file_pages import LandingFile
from core.memory.landing import LandingMemory
from core.memory.ranges import Ranges
from core.memory_plan import MemoryPlan, memory_plan
from core.mould import vmas_with
from core.options import RestoreOptions
from core.plan.births import TaskShape
from core.plan.ghost_names import GHOST_MEMORY
from core.plan.segments import SegmentSpec, merge_specs, segments_of
from core.prepare import Stopwatch, without_collector
from core.proc.reader import ProcReader
from core.resources import ipc_namespace
from core.resources.ghost_store import GhostStore
from core.resources.ipc_store import IpcStore
from core.resources.posix_mqueue_store import MqueueStore
from core.resources.segment_store import SegmentStore
from core.resources.terminal_store import TerminalStore
from core.resources.time_namespace import NO_OFFSETS, Clocks, wait_caught_up
from core.resources.vmas import MappedVma
from core.task_plan import clock_offsets, compile_tree, tree_shapes
from core.tracee.cgroup import make_leaf
from core.tracee.cgroup_home import find_home, leave_home
from core.tracee.holder import Holder, StopHolder, choose_holder, holder_at
from core.tree import NOTHING, SkeletonTree


@dataclass(frozen=True, slots=True)
class Parked:
    """A copy that lacks nothing but leave to run. `cgroup` is what holds it (resume_parked, remove_parked)."""

    pids: tuple[int, ...]
    cgroup: str
    phases: tuple[tuple[str, float], ...]
    notices: tuple[str, ...]


# Takes the master of a terminal that stands in for one outside of the tree, which must live as long as the process of
# this PID, whatever becomes of us; the descriptor is to be copied.
KeepTerminal = Callable[[int, int], None]


@dataclass(slots=True)
class LiveDestination:
    """One tree in the making. Every way out of it is resume() after finish(), or abort()."""

    name: str
    options: RestoreOptions
    reader: ProcReader = field(default_factory=ProcReader)
    holder: Holder | None = None
    tree: SkeletonTree | None = None
    ghosts: GhostStore = field(default_factory=GhostStore)
    ipc: IpcStore = field(default_factory=IpcStore)
    queues: MqueueStore = field(default_factory=MqueueStore)
    terminals: TerminalStore = field(default_factory=TerminalStore)
    keep_terminal: KeepTerminal | None = None
    segments: SegmentStore = field(init=False)
    _shapes: tuple[TaskShape, ...] = ()
    _kernel: dict[int, dict[str, tuple[int, int]]] = field(default_factory=dict)
    _planned: dict[int, tuple[ImageSet, MemoryPlan]] = field(default_factory=dict)  # of the last round, by own pid
    _stack: ExitStack = field(default_factory=ExitStack)  # what we came back from when it is closed
    _offsets: Clocks | None = None  # of the first tree; the clocks of both hosts run on alike

    def __post_init__(self) -> None:
        """Memory that is files is the ghosts'."""
        self.segments = SegmentStore(self.terminals.or_else(self.ghosts.fd))

    def prepare(self, cgroup_hint: str | None, pid: int) -> str:
        """Make what the copy will be parked in; its path. `cgroup_hint`: the cgroup that the source had it in; `pid`:
        what the tree's root calls itself."""
        self.options.scripts.run(Action.PRE_RESTORE)
        self.holder = choose_holder(
            self.options.hold, lambda: make_leaf(find_home(cgroup_hint or None, pid), self.name), StopHolder()
        )
        return self.holder.path

    def begin_mould(self, tree: ImageSet, memories: Mapping[int, ImageSet], pages: Ranges) -> LandingMemory:
        """What several tasks have in common comes first: the tasks are born with it, in the round that follows.

        `tree` and `memories` as in begin_round; `pages` will land in the memory returned.
        """
        self._enter_ipc(tree)
        plans = self._plan_memories(memories)
        mapped = vmas_with([plan.mapped for plan in plans.values()], pages)
        return self._cast(tree, plans, mapped)

    def begin_round(
        self, tree: ImageSet, memories: Mapping[int, ImageSet], kept: Mapping[int, Ranges] = NOTHING
    ) -> list[int]:
        """Make the skeletons, or bring their VMAs up to date; the tasks that have none of their pages.

        `tree`: who is there, as images of the tree; `memories`: each living task's address space, by own pid; `kept`:
        what the tasks have of the pages of begin_mould, which none other than the round before was.
        """
        self._enter_ipc(tree)
        self.ghosts.make(tree)
        shapes = tree_shapes(tree)
        here = segments_of(tree)  # told after the memories
        plans = {pid: plan.without_removed(here) for pid, plan in self._plan_memories(memories).items()}
        self._make_segments(merge_specs([here, *(plan.segments for plan in plans.values())]))
        kernel = {pid: plan.kernel for pid, plan in plans.items()}  # another one: it has executed a program
        if self.tree is not None and shapes == self._shapes and kernel == self._kernel:
            for pid, plan in plans.items():
                self.tree.skeletons[pid].update(plan.mapped)
            return []
        if self.tree is None or self._shapes:
            self._cast(tree, plans, ())
        self.terminals.make(tree)
        without = self._need_tree().bear(shapes, plans, kept)
        self._shapes, self._kernel = shapes, kernel
        return [pid for pid in plans if pid not in kept or pid in without]

    def _enter_ipc(self, tree: ImageSet) -> None:
        """Before anything is made for it: where the tree has an IPC namespace of its own, so has the copy."""
        if not self.segments.own_ipc:
            self.segments.own_ipc = self._stack.enter_context(ipc_namespace.made(tree))

    def _make_segments(self, specs: Mapping[int, SegmentSpec]) -> None:
        """What the tree has no longer goes first, from the skeletons too: another one may have the same index."""
        gone = set(self.segments.ids()).difference(specs)
        for skeleton in self.tree.skeletons.values() if self.tree is not None and gone else ():
            skeleton.let_go_of(gone)
        self.segments.make(specs)

    def _plan_memories(self, memories: Mapping[int, ImageSet]) -> dict[int, MemoryPlan]:
        """Those of the round before where the images are the very same."""
        before = self._planned
        self._planned = {
            pid: before[pid] if pid in before and before[pid][0] is images else (images, memory_plan(images, pid))
            for pid, images in memories.items()
        }
        return {pid: plan for pid, (_, plan) in self._planned.items()}

    def _cast(self, tree: ImageSet, plans: Mapping[int, MemoryPlan], mould: Sequence[MappedVma]) -> LandingMemory:
        """All anew: the tree has another shape than before, or there was none."""
        old, self.tree, self._shapes = self.tree, None, ()
        if old is not None:
            old.kill()
            self.terminals.close()
        if self._offsets is None:
            self._offsets = clock_offsets(tree)
        cgroup_fd = self._need_holder().open()
        try:
            cgroup = -1 if cgroup_fd is None else cgroup_fd
            self.tree = SkeletonTree(
                self.reader, self.options.pid_mode, cgroup, self._offsets, self.options.scripts,
                segments=self.segments, terminals=self.terminals,
            )  # fmt: skip
            return self.tree.cast(tree_shapes(tree)[0].pid, plans, mould)
        finally:
            if cgroup_fd is not None:
                os.close(cgroup_fd)

    def landing_memory(self, pid: int) -> LandingMemory:
        """Where the pages of a task land."""
        return self._need_tree().skeletons[pid].landing_memory()

    def landing_files(self) -> dict[int, LandingFile]:
        """Where the content of deleted files lands, by their numbers in the page stream."""
        return {GHOST_MEMORY | id: self.ghosts.landing(id) for id in self.ghosts.ids()}

    def _need_tree(self) -> SkeletonTree:
        if self.tree is None:
            raise RestoreError("the copy has no skeleton yet")
        return self.tree

    def finish(self, images: ImageSet, gone: Mapping[int, Ranges]) -> Parked:
        """Complete the tree and park it: held, no tracer. `gone`: pages that landed and that a task no longer has."""
        with without_collector():
            return self._finish(images, gone)

    def _finish(self, images: ImageSet, gone: Mapping[int, Ranges]) -> Parked:
        watch = Stopwatch()
        tree = self._need_tree()
        for pid, ranges in gone.items():
            tree.skeletons[pid].drop(ranges)
        self.ghosts.settle(images)
        build.refuse_files(images)
        plan = compile_tree(images, self.reader.status(os.getpid()).cap_bnd, self.options)
        self._make_segments(plan.segments)
        self.terminals.make(images)
        self.ipc.make(images)
        self.queues.make(images)
        if set(plan.shapes) != set(self._shapes):
            raise RestoreError("the tree at the freeze is not the one that its last round told of")
        watch.lap("plan")
        notices = tree.complete(plan, images, self.ghosts)
        self.ipc.settle()
        self.queues.settle()
        ipc_namespace.settle(images)
        self.ghosts.close()
        self._hand_terminals(tree, images)
        wait_caught_up(images, self._offsets or NO_OFFSETS)
        watch.lap("task")
        tree.ask_scripts()
        watch.lap("scripts")
        pids = self._park(tree)
        watch.lap("park")
        self._stack.close()
        notices += [notice] if (notice := self._need_holder().notice) else []
        return Parked(pids, self._need_holder().path, tuple(watch.phases), tuple(notices))

    def _hand_terminals(self, tree: SkeletonTree, images: ImageSet) -> None:
        for master in self.terminals.without_holder(images):
            if self.keep_terminal is None:
                raise RestoreError("nobody keeps the terminal that the copy was given")
            self.keep_terminal(master, tree.root.stem.pid)
        self.terminals.close()

    def _need_holder(self) -> Holder:
        if self.holder is None:
            raise RestoreError("nothing was prepared for the copy")
        return self.holder

    def _park(self, tree: SkeletonTree) -> tuple[int, ...]:
        holder = self._need_holder()
        pids = tuple(skeleton.stem.pid for skeleton in tree.skeletons.values())
        for pid in pids:
            holder.add_spawned(pid)
        holder.request_freeze()
        tree.let_go()
        holder.wait_frozen()
        return pids

    def resume(self) -> None:
        """Let the copy run. Idempotent."""
        self.segments.commit()
        self.queues.commit()
        self.ghosts.commit()
        self._need_holder().thaw()

    def let_go(self) -> list[str]:
        """After resume(), when there is time: remove our cgroup from under the copy; notices."""
        self._need_holder().give_back()
        self.segments.close()
        return self.options.scripts.run_late(Action.POST_RESUME, self._need_tree().root.stem.pid)

    def abort(self) -> None:
        """Remove everything that was made. Idempotent; never call it on a copy that was told to run."""
        tree, self.tree = self.tree, None
        holder, self.holder = self.holder, None
        self.ghosts.close()
        if holder is not None:
            holder.kill()
        if tree is not None:
            tree.kill()
        self.terminals.close()
        if holder is not None:
            holder.give_back()
            leave_home(os.path.dirname(holder.path))
        self.ipc.abandon()
        self.queues.abandon()
        self.segments.abandon()
        self.ghosts.abandon()
        self.segments.close()
        self._stack.close()


def resume_parked(path: str) -> None:
    """Let a parked tree run, in the cgroup that ours was made in. Needs nobody who was there before; idempotent."""
    adopt()  # while nothing of it can be closed or removed by itself
    holder_at(path).give_back()


def remove_parked(path: str) -> None:
    """Kill a parked tree whose keeper is gone, and remove what held it. Idempotent."""
    holder = holder_at(path)
    holder.kill()
    holder.give_back()
    leave_home(os.path.dirname(path))
    sweep()
