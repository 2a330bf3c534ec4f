"""`migrate pre-dump`: the pages of a running tree into a directory, and tracked from then on. A table of contents.

Everything told is tracked anew before it is read: what changes meanwhile comes with the next dump.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from core.errors import Blocker, MigrateError, Refused, UsageError
from core.images import kinds
from core.images.dedup import punch_superseded
from core.images.inventory import make_inventory
from core.images.page_dump import Lent, PagesSink
from core.images.pb.inventory_pb2 import DumpedTask
from core.images.store import ImageSet, write_directory
from core.kernel import ptrace
from core.kernel.threads import ThreadState
from core.memory.dirty import DirtyTracker
from core.memory.dirty.choose import choose_tracker, probe_tracker_kind
from core.memory.dirty.kept import Kept, KeptTracker, find_any_tracker, keeper_name, start_keeper
from core.memory.ranges import EMPTY, EVERYTHING, Ranges
from core.options import DumpOptions
from core.parents import Parent, ParentTask, open_parent, read_carried, release_quietly, write_task
from core.plan.encode import Steps
from core.prepare import Prepared, Stopwatch, prepare
from core.proc.direct_io import uses_direct_io
from core.proc.reader import ProcReader
from core.resources import aio
from core.resources.process_tree import host_ids
from core.tracee.borrow import Borrow, Results
from core.tracee.family import Member, has_ended, read_family, read_settled, release, stop_family
from core.tracee.freezer import freeze, stop_thread
from core.tracee.lender import borrow, find_lender
from core.tracee.remote_writers import RemoteWriters
from core.tracee.sharers import find_sharers
from core.tracee.uffd_loan import open_uffd
from core.vdso.mark import unproxied


@dataclass(frozen=True, slots=True)
class PreDumpReport:
    """What a pre-dump did: pages written, pages that the parent has already, seconds by phase, and what to know."""

    pid: int
    pages: int
    inherited: int
    phases: tuple[tuple[str, float], ...]
    notices: tuple[str, ...]


@dataclass(slots=True)
class _Task:
    """One process of the tree, from its first look to the pages on disk."""

    member: Member
    prepared: Prepared
    parent: ParentTask | None
    begun: DirtyTracker | None = None  # a tracker of our own; None: the parent's goes on
    told: Ranges | None = None
    missing: Ranges = EMPTY
    unsettled: Ranges = EMPTY  # of what is told, what may change once more of which nobody will tell

    @property
    def pid(self) -> int:
        """As we see it."""
        return self.member.pid


@dataclass(slots=True)
class _Round:
    directory: Path
    options: DumpOptions
    reader: ProcReader
    parent: Parent
    pages: int = 0
    inherited: int = 0
    notices: list[str] = field(default_factory=list)


def pre_dump(pid: int, directory: Path, options: DumpOptions, sink: PagesSink | None = None) -> PreDumpReport:
    """Write what a later dump of the tree of `pid` need not write while it stands still. The tree runs on.

    The pages go to the `sink`, if there is one.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: is not a directory", hint="make it first")
    watch = Stopwatch()
    foreign_fds = [int(name) for name in os.listdir("/proc/self/fd")]
    reader = ProcReader()
    parent = open_parent(directory, options.prev_images_dir, read_family(pid, reader).members[0], reader, sink)
    this = _Round(directory, options, reader, parent)
    with ExitStack() as begun:
        with ExitStack() as stack:
            tasks = _prepare_tasks(this, pid, stack)
            watch.lap("prepare")
            _ask_trackers(this, pid, tasks)
            _begin_trackers(this, pid, tasks, begun)
            _settle_writers(this, tasks)
            watch.lap("scan")
            for number, task in enumerate(tasks):
                with _unless_ended(task.pid, pid, reader):
                    _write_task(this, task, number + 1)
            watch.lap("pages")
        if sink is not None:
            sink.finish()
        _keep(this, tasks, foreign_fds)
        begun.pop_all()
    if options.auto_dedup and sink is None:
        punch_superseded(directory)
    watch.lap("finish")
    return PreDumpReport(pid, this.pages, this.inherited, tuple(watch.phases), (*parent.notices, *this.notices))


@contextmanager
def _unless_ended(pid: int, root: int, reader: ProcReader) -> Iterator[None]:
    """A process below the root may end while it is looked at: the next dump will not have it."""
    try:
        yield
    except (MigrateError, OSError):
        if pid == root or not has_ended(pid, reader):
            raise


def _prepare_tasks(this: _Round, root: int, stack: ExitStack) -> list[_Task]:
    """Every process of the tree."""
    tasks = []
    living = read_settled(root, this.reader, ()).living
    for pid, first in find_sharers([member.pid for member in living], this.reader).items():
        reason, hint = f"shares its memory with process {first} (CLONE_VM)", "make a dump without a pre-dump"
        raise Refused([Blocker("shared-task", f"pid {pid}", reason, hint)])
    for member in living:
        with _unless_ended(member.pid, root, this.reader):
            if this.parent.directory is None and (left := find_any_tracker(member.pid)) is not None:
                release_quietly(left)  # of a chain that this one does not go on
            prepared = stack.enter_context(prepare(member.pid, this.reader))
            rings = aio.rings(this.reader.maps(member.pid))
            if rings or uses_direct_io(member.pid, this.reader):
                raise Refused([aio.refuse_tracking(member.pid)])
            this.parent.read([member], this.reader)
            tasks.append(_Task(member, prepared, this.parent.tasks.get(member.pid)))
    return tasks


def _ask_trackers(this: _Round, root: int, tasks: list[_Task]) -> None:
    """What was written since the parent, from those who have tracked it."""
    with _standing_still(root, tasks, this.reader, needed=this.parent.needs_stop):
        for task in tasks:
            if task.parent is not None:
                with _unless_ended(task.pid, root, this.reader):
                    task.told = task.parent.ask_tracker()


def _begin_trackers(this: _Round, root: int, tasks: list[_Task], begun: ExitStack) -> None:
    """A tracker for everybody who has none; one thread of the process stands still for it.

    Where only contents could tell what was written there is none: the parent's images have the contents.
    """
    if (this.options.track or probe_tracker_kind()) == "hash":
        return
    for task in tasks:
        if task.parent is None or task.parent.tracker is None:
            with _unless_ended(task.pid, root, this.reader):
                task.begun = begin_tracking(task.prepared, this.options, this.reader)
                begun.callback(task.begun.close)
    new = [(task.pid, task.begun) for task in tasks if task.begun is not None]
    with _standing_still(root, tasks, this.reader, needed=any(tracker.needs_stop for _, tracker in new)):
        for pid, tracker in new:
            with _unless_ended(pid, root, this.reader):
                tracker.collect_and_rearm(this.reader.maps(pid))


def _settle_writers(this: _Round, tasks: list[_Task]) -> None:
    """Before anything that was told is read."""
    if (this.options.track or probe_tracker_kind()) == "hash":
        return
    writers = RemoteWriters(this.reader)
    try:
        writers.open()
        has_settled = writers.settle({task.prepared.tgid for task in tasks})
    finally:
        writers.close()
    for task in () if has_settled else tasks:
        task.unsettled = EVERYTHING if task.told is None else task.told
    this.notices += [writers.notice] if writers.notice else []


@contextmanager
def _standing_still(root: int, tasks: list[_Task], reader: ProcReader, *, needed: bool) -> Iterator[None]:
    if not needed:
        yield
        return
    _, frozen = stop_family(root, reader, {task.pid: task.prepared.vdso for task in tasks})
    try:
        yield
    finally:
        release(frozen)


def begin_tracking(prepared: Prepared, options: DumpOptions, reader: ProcReader) -> DirtyTracker:
    """A tracker for a running process, of which nothing but a userfaultfd stays behind."""
    pid = prepared.pid

    def make_uffd() -> int:
        thread = stop_thread(pid, pid, reader)
        try:
            with _borrowed(prepared, thread, reader) as borrowed:
                return open_uffd(borrowed, thread, prepared.pidfd)
        finally:
            ptrace.detach([thread.tid])

    return choose_tracker(pid, make_uffd, kind=options.track)


@contextmanager
def _borrowed(prepared: Prepared, thread: ThreadState, reader: ProcReader) -> Iterator[Borrow]:
    """The process of the stopped thread lends us an area."""
    pid = prepared.pid
    lender = find_lender(
        prepared.memory, reader.maps(pid), [thread], reader.status(pid), own_ids={thread.tid: prepared.own_tid},
        gadgets=prepared.gadgets,
    )  # fmt: skip
    with borrow(lender, thread) as borrowed:
        yield borrowed


def _write_task(this: _Round, task: _Task, pages_id: int) -> None:
    """The pages that are new since the parent."""
    carried = read_carried(task.pid, unproxied(this.reader.maps(task.pid), task.prepared.memory.read))
    lent = (
        Lent(task.prepared.pidfd, partial(_run_in, task, this.reader)) if this.options.page_mode == "splice" else None
    )
    written = write_task(this.directory, task.member, pages_id, carried, this.parent, task.told, lent)
    task.missing = written.missing
    this.pages += written.new
    this.inherited += written.inherited


def _run_in(task: _Task, reader: ProcReader, steps: Steps, at_yield: Callable[[Results], None]) -> None:
    """All threads stand still meanwhile: a child that was forked now would have our pipes for good."""
    with freeze(task.pid, reader) as frozen, _borrowed(task.prepared, frozen.leader, reader) as borrowed:
        borrowed.run(frozen.leader, steps, at_yield=at_yield)


def _keep(this: _Round, tasks: list[_Task], foreign_fds: list[int]) -> None:
    """Hand the trackers to a keeper, and then say in the inventory what this directory holds."""
    name = keeper_name(this.parent.dump_id)
    kept = {task.pid: Kept(task.begun, this.parent.dump_id) for task in tasks if task.begun is not None}
    for task in tasks:
        again = task.missing.union(task.unsettled)
        if task.begun is not None:
            task.begun.keep_pending(again)
        elif task.parent is not None and task.parent.tracker is not None:
            task.parent.tracker.commit(this.parent.dump_id, again)
    if kept:
        start_keeper(name, kept, foreign_fds)
    try:
        _write_inventory(this, [_entry_of(this, task, name) for task in tasks if this.reader.exists(task.pid)])
    except BaseException:
        for pid in kept:
            release_quietly(KeptTracker(name, pid))
        raise


def _entry_of(this: _Round, task: _Task, name: str) -> DumpedTask:
    if task.begun is None and task.parent is not None and task.parent.tracker is not None:
        name = task.parent.tracker.name
    start_time = this.reader.stat(task.member.tgid).start_time
    return DumpedTask(pid=task.member.own_pid, start_time=start_time, tracker=name)


def _write_inventory(this: _Round, entries: list[DumpedTask]) -> None:
    images = ImageSet()
    inventory = make_inventory(host_ids())
    this.parent.sign(inventory, entries)
    images.add(kinds.INVENTORY, inventory)
    write_directory(images, this.directory)
