"""`migrate restore`: from a directory of images to a running process. A table of contents."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from core import build
from core.action_scripts import Action
from core.errors import ImageError
from core.images import kinds
from core.images.dedup import punch_restored
from core.images.lineage import check_lineage
from core.images.pagemap import PagemapReader
from core.images.store import ImageSet, read_directory
from core.memory.fill import fill_all, fill_file, filling, land_file
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.mould_files import StoredMould
from core.options import RestoreOptions
from core.prepare import Stopwatch
from core.proc.reader import ProcReader
from core.resources import aio, ipc_namespace, process_tree
from core.resources.ghost_store import GhostStore, fill_ghosts
from core.resources.ipc_store import IpcStore
from core.resources.posix_mqueue_store import MqueueStore
from core.resources.segment_store import SegmentStore
from core.resources.terminal_store import TerminalStore
from core.task_plan import TreePlan, clock_offsets, compile_tree
from core.tracee.cgroup_home import born_at_home
from core.tree import SkeletonTree
from core.vdso.dumped import read_dumped, read_dumped_vdso


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """The restored process and where the time went (seconds by phase). `child`: whom of ours to wait for."""

    pid: int
    phases: tuple[tuple[str, float], ...]
    notices: tuple[str, ...]
    child: int


def read_plan(directory: Path, options: RestoreOptions) -> tuple[ImageSet, TreePlan]:
    """Read and compile; ImageError before anything is started."""
    images = read_directory(directory)
    if not images.has(kinds.INVENTORY):
        raise ImageError(str(directory), "holds no inventory.img: not a directory of images")
    check_lineage(directory)
    aio.complete(images, lambda pid, start, end: read_dumped(PagemapReader(directory, pid), start, end))
    bounding = ProcReader().status(os.getpid()).cap_bnd
    return images, compile_tree(images, bounding, options)


def plan_text(directory: Path, options: RestoreOptions) -> str:
    """What a restore would do, one operation per line; nothing is started."""
    return "\n".join(read_plan(directory, options)[1].describe())


def restore(directory: Path, options: RestoreOptions, before_run: Callable[[int], None] | None = None) -> RestoreReport:
    """Restore the process of `directory`; it runs when this returns. On any error nothing of it is left.

    `before_run` is called with its PID when all that is left is to let it run.
    """
    watch = Stopwatch()
    images, plan = read_plan(directory, options)
    pagemaps = {task.pid: PagemapReader(directory, task.pid) for task in plan.with_memory}
    memories = {
        task.pid: replace(task.memory, vdso=read_dumped_vdso(pagemaps[task.pid], task.memory.kernel))
        for task in plan.with_memory
    }
    launcher = ProcReader().status(os.getpid())
    build.refuse_launcher(plan.tasks, launcher)
    build.refuse_files(images)
    watch.lap("read images")
    scripts = replace(options.scripts, images=str(directory.absolute()))
    scripts.run(Action.PRE_RESTORE)
    ghosts, terminals, ipc, queues = GhostStore(), TerminalStore(), IpcStore(), MqueueStore()
    segments = SegmentStore(terminals.or_else(ghosts.fd))
    home = born_at_home(process_tree.cgroup_path(images), plan.root.pid)
    with ipc_namespace.made(images) as segments.own_ipc, home as (cgroup_fd, notices):
        tree = SkeletonTree(
            ProcReader(), options.pid_mode, cgroup_fd, clock_offsets(images), scripts,
            segments=segments, terminals=terminals,
        )  # fmt: skip
        try:
            ghosts.make(images)
            fill_ghosts(ghosts, directory)
            segments.make(plan.segments)
            terminals.make(images)
            ipc.make(images)
            queues.make(images)
            fill_segments(segments, directory)
            mould = StoredMould(pagemaps, memories)
            watch.lap("compare pages")
            landing = tree.cast(plan.root.pid, memories, mould.mapped)
            with filling(tree.root.stem, landing) as ready:
                mould.fill(ready)
            tree.bear(plan.shapes, memories, mould.kept)
            watch.lap("skeleton")
            fill(tree, pagemaps, plan, mould.kept)
            ghosts.settle(images)
            watch.lap("pages")
            notices += tree.complete(plan, images, ghosts) + build.notice_bounding(plan.root, launcher)
            ipc.settle()
            queues.settle()
            ipc_namespace.settle(images)
            if before_run:
                before_run(tree.root.stem.pid)
            tree.ask_scripts()
            for made in (segments, queues, ghosts):
                made.commit()
        except BaseException:
            tree.kill()
            for store in (ipc, queues, segments, ghosts):
                store.abandon()
            raise
        finally:
            ghosts.close()
            segments.close()
            terminals.close()
    stem = tree.root.stem
    tree.let_go()
    watch.lap("task")
    notices += scripts.run_late(Action.POST_RESUME, stem.pid)
    notices += punch_restored(directory) if options.auto_dedup else []
    return RestoreReport(stem.pid, tuple(watch.phases), tuple(notices), stem.init_pid or stem.pid)


def fill(tree: SkeletonTree, pagemaps: Mapping[int, PagemapReader], plan: TreePlan, kept: Mapping[int, Ranges]) -> None:
    """The pages of the images, each checked, into the tasks; those that they seem to have already are compared."""
    with ExitStack() as stack:
        jobs = []
        for task in plan.with_memory:
            skeleton = tree.skeletons[task.pid]
            ready = stack.enter_context(filling(skeleton.stem, skeleton.landing_memory(), kept.get(task.pid, EMPTY)))
            jobs.append((ready, pagemaps[task.pid], task.memory.unfilled))
        fill_all(jobs)


def fill_segments(segments: SegmentStore, directory: Path) -> None:
    """The pages of shared memory, each checked."""
    for id in segments.ids():
        pagemap = PagemapReader(directory, segments.spec(id).pages_id, kind=kinds.SHMEM_PAGEMAP)
        if segments.spec(id).page_size == PAGE_SIZE:
            fill_file(segments.fd(id, writable=True), pagemap)
        else:
            land_file(segments.landing(id), pagemap)
