"""`migrate dump`: a process into a directory of images. A table of contents."""

import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from core.action_scripts import Action, Network
from core.collect import Subject, collect_tree
from core.errors import CollectError, MigrateError, TraceeError, UsageError
from core.images import kinds
from core.images.ghosts import write_ghost
from core.images.page_dump import write_pages
from core.images.pagemap import PagemapWriter
from core.images.store import ImageSet, write_directory
from core.kernel import ptrace
from core.memory.file_pages import FilePageReader, data_ranges
from core.memory.present import read_page_sets
from core.memory.ranges import Ranges
from core.options import DumpOptions
from core.plan.segments import segments_of
from core.prepare import Prepared, Stopwatch, prepare, refuse_new_memory, stop_met, zombies_of
from core.proc.reader import ProcReader
from core.resources import registers
from core.resources.ghost_file import Ghosts
from core.resources.shared_memory import Segments
from core.tracee.family import Family, Member, has_ended, read_settled, release
from core.tracee.freezer import FrozenProcess
from core.tracee.lender import borrow, find_lender


@dataclass(frozen=True, slots=True)
class DumpReport:
    """What a dump did: pages written and seconds by phase; all phases but the first are inside the freeze."""

    pid: int
    pages: int
    phases: tuple[tuple[str, float], ...]


def dump(pid: int, directory: Path, options: DumpOptions) -> DumpReport:
    """Dump the tree of `pid` into `directory`, then end it; it runs on with leave_running and after any failure."""
    if not directory.is_dir():
        raise UsageError(f"{directory}: is not a directory", hint="make it first")
    scripts = replace(options.scripts, images=str(directory.absolute()))
    network = Network(scripts, pid)
    scripts.run(Action.PRE_DUMP, pid)
    watch = Stopwatch()
    reader = ProcReader()
    with ExitStack() as stack:
        ghosts, segments = stack.enter_context(Ghosts()), stack.enter_context(Segments(reader))
        prepared = _prepare_living(stack, pid, reader)
        watch.lap("prepare")
        family, frozen = stop_met(pid, reader, lambda family, _: _prepare_new(stack, family, prepared, reader))
        stack.callback(release, frozen)
        stack.callback(network.unlock)
        network.lock()
        watch.lap("freeze")
        if not family.living:
            raise TraceeError(pid, "has ended")
        with ExitStack() as lent:
            subjects = [_borrow(lent, prepared[one.pid], frozen[one.pid], one, reader) for one in family.living]
            images = collect_tree(subjects, zombies_of(family), options, ghosts, segments)
        watch.lap("collect")
        registers.complete_all(images)
        pages = sum(_write_pages(directory, subject, index + 1) for index, subject in enumerate(subjects))
        pages += _write_segments(directory, segments, images, len(subjects) + 1)
        write_directory(images, directory)
        _write_ghosts(directory, images, ghosts)
        watch.lap("pages")
        scripts.run(Action.POST_DUMP, pid)
        if not options.leave_running:
            _kill(subjects, frozen)
            segments.remove_moved()
            network.leave()
    return DumpReport(pid, pages, tuple(watch.phases))


def _prepare_living(stack: ExitStack, root: int, reader: ProcReader) -> dict[int, Prepared]:
    """All of the tree as it is now, but for those that end meanwhile."""
    prepared = {}
    for member in read_settled(root, reader, ()).living:
        try:
            prepared[member.pid] = stack.enter_context(prepare(member.pid, reader))
        except (MigrateError, OSError):
            if member.pid == root or not has_ended(member.pid, reader):
                raise
    return prepared


def _prepare_new(stack: ExitStack, family: Family, prepared: dict[int, Prepared], reader: ProcReader) -> None:
    """Who was born, or has executed another program, since _prepare_living."""
    for member in family.living:
        if member.pid not in prepared or prepared[member.pid].is_over:
            prepared[member.pid] = stack.enter_context(prepare(member.pid, reader))


def _borrow(stack: ExitStack, prepared: Prepared, frozen: FrozenProcess, member: Member, reader: ProcReader) -> Subject:
    """A frozen process that lends us an area until the stack unwinds."""
    pid = member.pid
    current = reader.maps(pid)
    refuse_new_memory(current, prepared.vma_flags)
    statuses = reader.brief_statuses({pid: frozen.tids})[pid]
    own_ids = {tid: status.own_tid for tid, status in statuses.items()}
    lender = find_lender(
        prepared.memory, current, frozen.threads, reader.status(pid), own_ids=own_ids, gadgets=prepared.gadgets
    )
    borrowed = stack.enter_context(borrow(lender, frozen.leader))
    return Subject(
        frozen, borrowed, current, prepared.vma_flags, reader, prepared.pidfd, member.own_pid, statuses, member.parent
    )


def _kill(subjects: Sequence[Subject], frozen: dict[int, FrozenProcess]) -> None:
    for subject in subjects:
        signal.pidfd_send_signal(subject.pidfd, signal.SIGKILL)
    for subject in reversed(subjects):
        ptrace.reap_killed(frozen.pop(subject.pid).tids)


def _write_ghosts(directory: Path, images: ImageSet, ghosts: Ghosts) -> None:
    """What deleted files hold."""
    for ghost in ghosts:
        if images.has(kinds.GHOST_FILE, ghost.id) and (head := ghost.entry()).chunks:
            write_ghost(directory, ghost.id, head, FilePageReader(ghost.fd).read(data_ranges(ghost.fd)))


def _write_segments(directory: Path, segments: Segments, images: ImageSet, pages_id: int) -> int:
    """The pages of shared memory, each once; holes are left out."""
    specs, pages = segments_of(images), 0
    for number, segment in enumerate(segments, pages_id):
        id, data = specs[segment.id].pages_id, data_ranges(segment.fd)
        with PagemapWriter(directory, id, pages_id=number, kind=kinds.SHMEM_PAGEMAP) as writer:
            for start, content in FilePageReader(segment.fd).read(data):
                writer.append(start, content)
        pages += data.total_pages
    return pages


def _write_pages(directory: Path, subject: Subject, pages_id: int) -> int:
    """The pages of one process; the [vdso]'s too, since what restores may need to know it."""
    sets = read_page_sets(subject.pid, subject.vmas)
    if sets.guard:
        raise CollectError(f"guard pages {sets.guard}", "are not carried yet")
    carried = sets.carried.union(Ranges.of((vma.start, vma.end) for vma in subject.vmas if vma.name == "[vdso]"))
    with PagemapWriter(directory, subject.own_pid, pages_id=pages_id) as writer:
        if missing := write_pages(subject.pid, writer, carried):
            raise CollectError(f"pid {subject.pid}: pages {missing}", "cannot be read")
    return carried.total_pages
