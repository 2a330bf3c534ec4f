"""What a dump writes of a frozen tree besides the images in memory: pages, shared memory, deleted files."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from core.collect import Subject
from core.errors import CollectError
from core.images import kinds
from core.images.ghosts import write_ghost
from core.images.page_dump import Lent
from core.images.pagemap import PagemapWriter
from core.images.pb.inventory_pb2 import DumpedTask
from core.images.store import ImageSet
from core.memory.file_pages import FilePageReader, data_ranges
from core.memory.ranges import Ranges
from core.options import PageMode
from core.parents import Parent, Written, read_carried, write_task
from core.plan.encode import Steps
from core.plan.segments import segments_of
from core.resources.ghost_file import Ghosts
from core.resources.shared_memory import Segments
from core.tracee.borrow import Results
from core.tracee.family import Member


def write_ghosts(directory: Path, images: ImageSet, ghosts: Ghosts) -> None:
    """What deleted files hold."""
    for ghost in ghosts:
        if images.has(kinds.GHOST_FILE, ghost.id) and (head := ghost.entry()).chunks:
            write_ghost(directory, ghost.id, head, FilePageReader(ghost.fd).read(data_ranges(ghost.fd)))


def write_segments(directory: Path, segments: Segments, images: ImageSet, pages_id: int) -> int:
    """The pages of shared memory, each once; holes are left out."""
    specs, pages = segments_of(images), 0
    for number, segment in enumerate(segments, pages_id):
        id, data = specs[segment.id].pages_id, data_ranges(segment.fd)
        with PagemapWriter(directory, id, pages_id=number, kind=kinds.SHMEM_PAGEMAP) as writer:
            for start, content in FilePageReader(segment.fd).read(data):
                writer.append(start, content)
        pages += data.total_pages
    return pages


def write_subject(
    directory: Path, subject: Subject, member: Member, pages_id: int, parent: Parent, mode: PageMode
) -> Written:
    """The pages of one process; the [vdso]'s too, since what restores may need to know it, and rings, as CRIU does."""
    carried = read_carried(subject.pid, subject.vmas)
    others = [vma for vma in subject.vmas if vma.name == "[vdso]" or vma.is_aio_ring]
    carried = carried.union(Ranges.of((vma.start, vma.end) for vma in others))
    task = parent.tasks.get(subject.pid)
    told = task.ask_tracker() if task is not None else None
    lent = Lent(subject.pidfd, partial(_run_in, subject)) if mode == "splice" else None
    written = write_task(directory, member, pages_id, carried, parent, told, lent)
    if written.missing:
        raise CollectError(f"pid {subject.pid}: pages {written.missing}", "cannot be read")
    return written


def _run_in(subject: Subject, steps: Steps, at_yield: Callable[[Results], None]) -> None:
    subject.borrow.run(subject.frozen.leader, steps, at_yield=at_yield)


def sign_dump(images: ImageSet, subjects: Sequence[Subject], parent: Parent) -> None:
    """Say in the inventory which dump it is, of whom, and since which one."""
    found = [(one.own_pid, one.reader.stat(one.tgid).start_time) for one in subjects if one.has_memory]
    tasks = [DumpedTask(pid=pid, start_time=start_time) for pid, start_time in found]
    parent.sign(images.one(kinds.INVENTORY), tasks)
