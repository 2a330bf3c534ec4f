"""`migrate dump`: a process into a directory of images. A table of contents."""

import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from core.action_scripts import Action, Network
from core.collect import Subject, collect_tree
from core.dump_writing import sign_dump, write_ghosts, write_segments, write_subject
from core.errors import TraceeError, UsageError
from core.images.dedup import punch_superseded
from core.images.page_dump import PagesSink
from core.images.store import write_directory
from core.kernel import ptrace
from core.kernel.ipc_namespace import in_ipc_namespace_of
from core.options import DumpOptions
from core.parents import open_parent
from core.plan.births import plan_births
from core.prepare import (
    Stopwatch,
    prepare_living,
    prepare_new,
    stop_met,
    zombies_of,
)
from core.proc.reader import ProcReader
from core.resources import posix_mqueue, registers, sysv_ipc
from core.resources.ghost_file import Ghosts
from core.resources.shared_memory import Segments
from core.subjects import borrow_subject
from core.task_plan import tree_shapes
from core.tracee.family import Family, read_family, release
from core.tracee.freezer import FrozenProcess


@dataclass(frozen=True, slots=True)
class DumpReport:
    """What a dump did: pages written and seconds by phase; all phases but the first are inside the freeze.

    `inherited`: pages that its parent has already.
    """

    pid: int
    pages: int
    phases: tuple[tuple[str, float], ...]
    inherited: int = 0
    notices: tuple[str, ...] = ()


def dump(pid: int, directory: Path, options: DumpOptions, sink: PagesSink | None = None) -> DumpReport:
    """Dump the tree of `pid` into `directory`, its pages to the `sink` if there is one, then end it; it runs on with
    leave_running and after any failure.
    """
    if not directory.is_dir():
        raise UsageError(f"{directory}: is not a directory", hint="make it first")
    scripts = replace(options.scripts, images=str(directory.absolute()))
    network = Network(scripts, pid)
    scripts.run(Action.PRE_DUMP, pid)
    watch = Stopwatch()
    reader = ProcReader()
    with ExitStack() as stack:
        own_ipc = stack.enter_context(in_ipc_namespace_of(pid))
        ghosts, segments = stack.enter_context(Ghosts()), stack.enter_context(Segments(reader))
        segments.own_ipc = own_ipc
        prepared = prepare_living(stack, pid, reader)
        before = read_family(pid, reader)
        parent = open_parent(directory, options.prev_images_dir, before.members[0], reader, sink)
        parent.read(before.living, reader)
        watch.lap("prepare")
        sharers: dict[int, int] = {}

        def meet(now: Family, _: Mapping[int, FrozenProcess]) -> None:
            nonlocal sharers
            sharers = prepare_new(stack, now, prepared, reader)

        family, frozen = stop_met(pid, reader, meet, prepared)
        stack.callback(release, frozen)
        stack.callback(network.unlock)
        network.lock()
        watch.lap("freeze")
        if not family.living:
            raise TraceeError(pid, "has ended")
        parent.read(family.living, reader)
        parent.forget([*sharers, *sharers.values()])
        with ExitStack() as lent:
            subjects = [borrow_subject(lent, prepared[one.pid], frozen, one, reader, sharers) for one in family.living]
            images = collect_tree(subjects, zombies_of(family), options, ghosts, segments)
            plan_births(tree_shapes(images))  # Refused: it could not be made anew
            watch.lap("collect")
            written = [
                write_subject(directory, subject, member, index + 1, parent, options.page_mode)
                for index, (subject, member) in enumerate(zip(subjects, family.living, strict=True))
                if subject.has_memory
            ]
        registers.complete_all(images)
        pages = write_segments(directory, segments, images, len(subjects) + 1)
        if sink is not None:
            sink.finish()
        sign_dump(images, subjects, parent)
        write_directory(images, directory)
        write_ghosts(directory, images, ghosts)
        watch.lap("pages")
        scripts.run(Action.POST_DUMP, pid)
        if not options.leave_running:
            _kill(subjects, frozen)
            if not own_ipc:  # which goes with its last process
                segments.remove_moved()
                sysv_ipc.remove_moved(images, reader)
                posix_mqueue.remove_moved(images)
            network.leave()
    parent.release()
    if options.auto_dedup and sink is None:
        punch_superseded(directory)
    new, inherited = pages + sum(one.new for one in written), sum(one.inherited for one in written)
    return DumpReport(pid, new, tuple(watch.phases), inherited, tuple(parent.notices))


def _kill(subjects: Sequence[Subject], frozen: dict[int, FrozenProcess]) -> None:
    for subject in subjects:
        signal.pidfd_send_signal(subject.pidfd, signal.SIGKILL)
    for subject in reversed(subjects):
        ptrace.reap_killed(frozen.pop(subject.pid).tids)
