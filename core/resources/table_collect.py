"""Collects the descriptor tables of a frozen tree: what was made of descriptors before is asked of their records.

What a kind is, its own module knows; file_table names the kinds.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from core.errors import CollectError, Refused
from core.ids.shared import Descriptor, KnownFiles, SharedIds
from core.images import kinds
from core.images.codec import Record
from core.images.pb.descriptors_pb2 import PipeDataEntry
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.images.pb.filesystem_pb2 import MemfdInodeEntry
from core.images.store import ImageSet
from core.kernel.descriptors import search_texts
from core.options import DumpOptions
from core.proc.fdinfo import parse_fdinfo
from core.proc.prefetched import PrefetchedReader
from core.proc.reader import ProcReader
from core.resources import (
    fifo,
    file_locks,
    memfd,
    pipe,
    posix_mqueue,
    regular_file,
    terminal,
    timerfd,
    uncarried,
    unix_queue,
    unix_socket,
)
from core.resources.context import (
    TIMERFD_LINK,
    Kind,
    OpenFile,
    OpenTable,
    make_table,
    read_in_flight,
    read_open_file,
)
from core.resources.file_table import kind_of, refuse
from core.resources.foresight import (
    content_of,
    entry_of,
    is_right,
    is_whole,
    line_of,
    make_seen,
    named,
    note_memory,
    reference,
)
from core.resources.ghost_file import Ghosts
from core.resources.shared_memory import Segments
from core.resources.sightings import Seen, Sightings
from core.resources.unix_queue import Packet


def collect(
    pid: int,
    pidfd: int,
    reader: ProcReader,
    images: ImageSet,
    *,
    files_id: int,
    options: DumpOptions,
) -> None:
    """Add the table of a frozen task that is alone to `images`; see collect_tables."""
    with Ghosts() as ghosts, Segments(reader) as segments:
        task = TaskTable(pid, pidfd, files_id)
        ids = SharedIds()
        unsure = collect_tables([task], reader, images, options=options, ids=ids, ghosts=ghosts, segments=segments)
        settle_timers(unsure, images)


@dataclass(frozen=True, slots=True)
class TaskTable:
    """Whose descriptor table, and its number in the images. `own_pid`: what the process calls itself; 0: not known."""

    pid: int
    pidfd: int
    files_id: int
    own_pid: int = 0


FDINFO_ROOM: Final = 4096  # bytes: more than there is of a timer
NOT_DUE: Final = b"\nticks: 0\n"  # in its text


class UnsureTimer(NamedTuple):
    """One that looked disarmed, and the number of its open file. `text`: ours of its fdinfo, or below 0."""

    descriptor: Descriptor
    seen: Seen | None
    id: int
    text: int


def collect_tables(
    tasks: Sequence[TaskTable],
    reader: ProcReader,
    images: ImageSet,
    *,
    options: DumpOptions,
    ids: SharedIds,
    ghosts: Ghosts,
    segments: Segments,
    dead: Iterable[int] = (),
    sightings: Sightings | None = None,
) -> list[UnsureTimer]:
    """Add the tables of a frozen tree to `images`: fdinfo, files, contents of pipes, queues of UNIX sockets.

    Deleted files go to `ghosts`, memfds to `segments`: their contents are the caller's to carry. `dead`: own pids of
    the zombies. `sightings`: what was foreseen. Refused with every blocker. Returns what settle_timers is called with
    when all else is collected.
    """
    if sightings is None:
        sightings = Sightings(KnownFiles(ids.next_file_id))
    with ExitStack() as stack:
        opened = [one for task in tasks for one in stack.enter_context(_open_table(task, reader, sightings))]
        places = [place for place, (_, seen) in enumerate(opened) if seen is None]
        unseen = [opened[place][0] for place in places]
        queues = _look_at_queues(unseen, reader, ids)
        in_flight = [file for queue in queues for _, carried in queue.packets for file in carried]
        statuses = reader.brief_statuses({task.pid: [task.pid] for task in tasks if not task.own_pid})
        own_pids = {task.pid: task.own_pid or statuses[task.pid][task.pid].own_pid for task in tasks}
        table = make_table((*(file for file, _ in opened), *in_flight), options, sightings.replies)
        table = replace(table, own_pids=frozenset((*own_pids.values(), *dead)))
        told = (seen.kind.refuse(file, table) for file, seen in opened if seen is not None and seen.by_table)
        if blockers := [*filter(None, told), *refuse(table, (*unseen, *in_flight))]:
            raise Refused(blockers)
        places += range(len(opened), len(opened) + len(in_flight))
        opened += [(file, None) for file in in_flight]
        references = [named(file) if seen is None else seen.reference for file, seen in opened]
        numbers = ids.number_files(references, sightings.files)
        new = _collect_files(opened, numbers, table, images, ids, ghosts, segments, {t.pid: t.files_id for t in tasks})
        _collect_chosen(images, ids, ghosts)
        found = [(opened[place][0], numbers[place][0]) for place in places]
        locked = [(file, own_pids[file.pid], id) for file, id in found if file.info.locks]
        for lock in file_locks.collect(locked):
            images.add(kinds.FILE_LOCKS, lock)
        unseen += in_flight
        for tty_info, waiting in terminal.collect_terminals(unseen):
            images.add(kinds.TTY_INFO, tty_info)
            if waiting is not None:
                images.add(kinds.TTY_DATA, waiting)
        _collect_pipe_contents([one for one in opened if one[1] is None or one[1].kind is pipe], images)
        for message_queue in posix_mqueue.collect_queues(unseen, own_pids):
            images.add(kinds.MQUEUE, message_queue)
        ids_of = {name: id for (name, _), (id, _) in zip(references, numbers, strict=True)} if queues else {}
        _collect_queues(queues, new, ids_of, images, reader)
        pidfds = {task.pid: task.pidfd for task in tasks}
        unset = {task.pid: sightings.unset_timers(task.pid, task.pidfd) for task in tasks}
        return [
            UnsureTimer(
                reference(file), seen, id, -1 if seen is None else sightings.text(file.pid, pidfds[file.pid], file.fd)
            )
            for (file, seen), (id, is_new) in zip(opened, numbers, strict=True)
            if is_new and file.link == TIMERFD_LINK and file.fd not in unset[file.pid] and timerfd.may_be_due(file)
        ]


def settle_timers(unsure: Sequence[UnsureTimer], images: ImageSet) -> None:
    """Expirations that the kernel has counted since these were looked at, which look as if they were disarmed."""
    closed = [one for one in unsure if one.text < 0]
    texts = ProcReader().contents([(pid, f"fdinfo/{fd}") for (pid, fd), _, _, _ in closed])
    found = [(one, text) for one, text in zip(closed, texts, strict=True) if isinstance(text, bytes)]
    held = [one for one in unsure if one.text >= 0]
    armed = zip(held, search_texts([one.text for one in held], NOT_DUE), strict=True)
    found += [(one, os.pread(one.text, FDINFO_ROOM, 0)) for one, is_not_due in armed if not is_not_due]
    due = [(one, text) for one, text in found if NOT_DUE not in text]
    entries = {entry.id: entry for entry in images.all(kinds.FILES)} if due else {}
    for one, text in due:
        if (timer := parse_fdinfo(os.fsdecode(text)).timerfd) is not None:
            entries[one.id].tfd.ticks = timer.ticks
        if one.seen is not None:  # whose entry this is, too; it looks disarmed again once somebody has read it
            one.seen.entry = None


@contextmanager
def _open_table(
    task: TaskTable, reader: ProcReader, sightings: Sightings
) -> Iterator[list[tuple[OpenFile, Seen | None]]]:
    """All descriptors of a frozen task, ascending; with our duplicates where its record does not tell all."""
    looked = sightings.look(task.pid, task.pidfd, reader, make_seen, is_frozen=True)
    untold = [fd for fd, seen in looked if seen is None]
    if untold and isinstance(reader, PrefetchedReader):
        reader.fetch_descriptors(task.pid, untold)
    held: dict[int, OpenFile] = {}
    try:
        for fd in untold:
            if (file := read_open_file(task.pid, fd, reader, task.pidfd)) is not None:
                held[fd] = file
        yield [(file, seen) for fd, seen in looked if (file := held.get(fd) if seen is None else seen.file) is not None]
    finally:
        for file in held.values():
            file.duplicate.close()
        sightings.give_back(task.pid, task.pidfd)


def _collect_files(
    opened: Sequence[tuple[OpenFile, Seen | None]], numbers: Sequence[tuple[int, bool]], table: OpenTable,
    images: ImageSet, ids: SharedIds, ghosts: Ghosts, segments: Segments, files_id_of: Mapping[int, int],
) -> set[int]:  # fmt: skip
    """Entries of all open files, and which of them are new; the tables' lines."""
    types = {entry.id: entry.type for entry in images.all(kinds.FILES)}
    new: set[int] = set()
    lines: dict[int, list[Record[FdinfoEntry]]] = {pid: [] for pid in files_id_of}
    told: list[Record[FileEntry]] = []
    memories: list[Record[MemfdInodeEntry]] = []
    for (file, seen), (id, is_new) in zip(opened, numbers, strict=True):
        if seen is not None and seen.id != id:
            seen.note_number(id)
        if is_new:
            if seen is not None and (seen.by_state or seen.entry is None):
                _make_entry(seen, id, table, segments)
            if seen is not None and seen.entry is not None:
                told.append(seen.entry)
                types[id] = seen.type
                if seen.memory is not None:
                    memories.append(seen.memory)
            else:
                images.extend(kinds.FILES, told)
                told = []
                entry = _collect_file(file, id, table, images, segments)
                types[id] = entry.type
                _collect_path(file, entry, images, ids, ghosts)
            new.add(id)
        if seen is not None and seen.line is not None:
            lines[file.pid].append(seen.line)
        elif not file.carrier:
            lines[file.pid].append(line_of(file, seen, id, types[id]))
    images.extend(kinds.FILES, told)
    segments.add_memfds(memories, images)
    for pid, files_id in files_id_of.items():
        images.extend(kinds.FDINFO, lines[pid], files_id)
    return new


def _make_entry(seen: Seen, id: int, table: OpenTable, segments: Segments) -> None:
    """The entry as it has to be now; none where there is more to make than that."""
    if seen.entry is not None and is_right(seen, table, segments):
        return
    if not is_whole(seen, table):
        seen.entry = None
        return
    entry_of(seen, id, table)
    if seen.kind is memfd:
        file = seen.file
        if (
            segments.opened_before(*file.inode) is None
            and segments.opened(f"/proc/{file.pid}/fd/{file.fd}", file.link) is None
        ):
            raise CollectError(file.subject, "cannot be opened as memory")
        note_memory(seen, segments)


def _collect_chosen(images: ImageSet, ids: SharedIds, ghosts: Ghosts) -> None:
    """Files that are carried by choice: who has one open finds it by its path."""
    for ghost in ghosts:
        if ghost.path in ghosts.chosen and not images.has(kinds.GHOST_FILE, ghost.id):
            id = ids.next_file_id()
            reg = regular_file.reg_file_entry(id, ghost.path, 0, os.fstat(ghost.fd))
            images.add(kinds.FILES, entry := FileEntry(type=FdTypes.REG, id=id, reg=reg))
            ghosts.describe_as(images, entry, ghost)


def _collect_path(file: OpenFile, entry: FileEntry, images: ImageSet, ids: SharedIds, ghosts: Ghosts) -> None:
    """The file that says where it is, for kinds that have it beside their entry; and who has lost its name."""
    root = f"/proc/{file.pid}/root"
    if entry.type == FdTypes.TTY:
        path = terminal.collect_path(file, ids.next_file_id())
        entry.tty.regf_id = path.id
        images.add(kinds.FILES, path)
    elif entry.type == FdTypes.FIFO:
        path = fifo.collect_path(file, ids.next_file_id())
        entry.fifo.regf_id = path.id
        images.add(kinds.FILES, path)
        if fifo.is_nameless(file):
            ghosts.describe(images, root, path, file.local_fd, file.link)
    elif entry.type == FdTypes.REG and regular_file.is_nameless(file):
        ghosts.describe(images, root, entry, file.local_fd, file.link)
    elif entry.type == FdTypes.REG and regular_file.is_misnamed(file) and regular_file.other_name(file) is None:
        ghosts.link_beside(images, root, entry, file.local_fd, ids.next_file_id())


def _collect_file(file: OpenFile, id: int, table: OpenTable, images: ImageSet, segments: Segments) -> FileEntry:
    """Its entry, behind that of the service outside that it is connected to."""
    outside = unix_socket.collect_outside(file, table) if unix_socket.claims(file) else None
    if outside is not None and all(entry.id != outside.id for entry in images.all(kinds.FILES)):
        images.add(kinds.FILES, outside)
    entry = _kind_or_raise(file).collect(file, id, table)
    if (segment := segments.opened(f"/proc/self/fd/{file.local_fd}", file.link)) is not None:
        entry.memfd.inode_id = segments.describe(segment, images).shmid
    images.add(kinds.FILES, entry)
    return entry


@dataclass(frozen=True, slots=True)
class _Queue:
    """What waits in a UNIX socket: each packet with the files that are in flight with it."""

    file: OpenFile
    packets: tuple[tuple[Packet, tuple[OpenFile, ...]], ...]


def _look_at_queues(files: Sequence[OpenFile], reader: ProcReader, ids: SharedIds) -> list[_Queue]:
    """Of all UNIX sockets among `files` and of those in flight in them, and so on."""
    queues: list[_Queue] = []
    seen: set[int] = set()
    found = list(files)
    for file in found:
        if not unix_socket.claims(file) or file.stat.st_ino in seen or not unix_socket.has_queue(file):
            continue
        seen.add(file.stat.st_ino)
        packets = unix_queue.collect_queue(file)
        ids.hold(fd for packet in packets for fd in packet.fds)
        carried = [
            (packet, tuple(read_in_flight(file.pid, fd, file.subject, reader) for fd in packet.fds))
            for packet in packets
        ]
        queues.append(_Queue(file, tuple(carried)))
        found += [one for _, several in carried for one in several]
    return queues


def _collect_queues(
    queues: Sequence[_Queue], new: set[int], ids: Mapping[Descriptor, int], images: ImageSet, reader: ProcReader
) -> None:
    """Packets of the sockets that no table before had."""
    for queue in queues:
        id = ids[reference(queue.file)]
        for packet, carried in queue.packets if id in new else ():
            rights = [ids[reference(file)] for file in carried]
            entry = unix_queue.packet_entry(packet, id, rights)
            if entry.ucred.pid:
                entry.ucred.pid = _own_pid(entry.ucred.pid, reader)
            images.add(kinds.SK_QUEUES, entry, payload=packet.payload)


def _own_pid(pid: int, reader: ProcReader) -> int:
    """What a process that we see as `pid` calls itself; 0 when it is gone."""
    try:
        return reader.status(pid).ns_pid[-1]
    except ProcessLookupError:
        return 0


def _kind_or_raise(file: OpenFile) -> Kind:
    kind = kind_of(file)
    if kind is None:
        raise Refused([uncarried.refuse(file)])
    return kind


def _collect_pipe_contents(opened: Iterable[tuple[OpenFile, Seen | None]], images: ImageSet) -> None:
    """Once for every pipe that the task can read."""
    done = {entry.pipe_id for entry in images.all(kinds.PIPES_DATA)}
    named = {entry.pipe_id for entry in images.all(kinds.FIFO_DATA)}
    told: list[Record[PipeDataEntry]] = []
    for file, seen in opened:
        if seen is not None:
            if (known := seen.content or content_of(seen)) is not None and known.message.pipe_id not in done:
                told.append(known)
                done.add(known.message.pipe_id)
            continue
        if fifo.claims(file) and fifo.reads(file) and fifo.pipe_id(file) not in named:
            content = fifo.collect_content(file)
            images.add(kinds.FIFO_DATA, content.entry, payload=content.payload)
            named.add(content.entry.pipe_id)
        if pipe.claims(file) and pipe.reads(file) and pipe.pipe_id(file) not in done:
            content = pipe.collect_content(file)
            images.add(kinds.PIPES_DATA, content.entry, payload=content.payload)
            done.add(content.entry.pipe_id)
    if told:
        images.extend(kinds.PIPES_DATA, told)
