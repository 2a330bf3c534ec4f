"""Collects the descriptor tables of a frozen tree: what was made of descriptors before is asked of their records.

What a kind is, its own module knows; file_table names the kinds.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from fcntl import FD_CLOEXEC
from typing import Final, Protocol

from core.errors import CollectError, MigrateError, Refused
from core.ids.shared import Descriptor, FileReference, KnownFiles, SharedIds
from core.images import kinds
from core.images.codec import Record
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.images.store import ImageSet
from core.kernel.descriptors import Sight
from core.options import DumpOptions
from core.proc.prefetched import PrefetchedReader
from core.proc.reader import ProcReader
from core.resources import (
    eventfd,
    fifo,
    file_locks,
    memfd,
    pipe,
    posix_mqueue,
    regular_file,
    terminal,
    timerfd,
    udp_socket,
    uncarried,
    unix_queue,
    unix_socket,
)
from core.resources.context import (
    Kind,
    OpenFile,
    OpenTable,
    make_table,
    may_tell_all,
    read_in_flight,
    read_open_file,
)
from core.resources.file_table import kind_of, refuse
from core.resources.ghost_file import Ghosts
from core.resources.shared_memory import Segments
from core.resources.sightings import Seen, Sightings
from core.resources.unix_queue import Packet


class Told(Kind, Protocol):
    """A kind of which a record may tell all."""

    def is_told(self, sight: Sight) -> bool:
        """This one does."""


TOLD: Final[tuple[Told, ...]] = (memfd, regular_file, pipe, udp_socket, unix_socket, eventfd, timerfd)
BY_TABLE: Final[tuple[Kind, ...]] = (pipe, unix_socket)  # whose refusal depends on the table


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
        collect_tables([task], reader, images, options=options, ids=SharedIds(), ghosts=ghosts, segments=segments)


@dataclass(frozen=True, slots=True)
class TaskTable:
    """Whose descriptor table, and its number in the images."""

    pid: int
    pidfd: int
    files_id: int


def make_seen(file: OpenFile) -> Seen | None:
    """The file of a record, with its kind; None when there is more to it than the record tells."""
    sight, kind = file.sight, kind_of(file)
    told = next((one for one in TOLD if one is kind), None)
    if sight is None or told is None or not may_tell_all(sight) or not told.is_told(sight):
        return None
    return Seen(file, told, told in BY_TABLE, _named(file))


def foresee(tasks: Sequence[tuple[int, int]], reader: ProcReader, options: DumpOptions, sightings: Sightings) -> None:
    """While they run, make what collect_tables will need if it is the same still. `tasks`: pid and pidfd of each."""
    sightings.keep(tasks)
    with suppress(OSError, MigrateError):  # somebody closed one meanwhile, or ended: what was made stays good
        if any(mount.is_network for pid, _ in tasks[:1] for mount in reader.mountinfo(pid)):
            return  # a server that does not answer would hold us up
        seen = [one for pid, pidfd in tasks for one in _look_ahead(pid, pidfd, reader, sightings)]
        sightings.replies.clear()
        table = make_table([one.file for one in seen], options, sightings.replies)
        ids = SharedIds(next_file_id=sightings.files.next_id)
        numbers = ids.number_files([one.reference for one in seen], sightings.files)
        types: dict[int, FdTypes] = {}
        for one, (id, is_new) in zip(seen, numbers, strict=True):
            if is_new and _is_whole(one, table):
                types[id] = _entry_of(one, id, table).message.type
            if id in types:
                _line_of(one.file, one, id, types[id])


def _look_ahead(pid: int, pidfd: int, reader: ProcReader, sightings: Sightings) -> list[Seen]:
    found = sightings.look(pid, pidfd, reader, make_seen)
    sightings.settle(pid, pidfd, [fd for fd, _ in found], reader)
    return [seen for _, seen in found if seen is not None]


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
) -> None:
    """Add the tables of a frozen tree to `images`: fdinfo, files, contents of pipes, queues of UNIX sockets.

    Deleted files go to `ghosts`, memfds to `segments`: their contents are the caller's to carry. `dead`: own pids of
    the zombies. `sightings`: what was foreseen. Refused with every blocker.
    """
    if sightings is None:
        sightings = Sightings(KnownFiles(ids.next_file_id))
    with ExitStack() as stack:
        opened = [one for task in tasks for one in stack.enter_context(_open_table(task, reader, sightings))]
        unseen = [file for file, seen in opened if seen is None]
        queues = _look_at_queues(unseen, reader, ids)
        in_flight = [file for queue in queues for _, carried in queue.packets for file in carried]
        statuses = reader.brief_statuses({task.pid: [task.pid] for task in tasks})
        own_pids = {pid: threads[pid].own_pid for pid, threads in statuses.items()}
        table = make_table((*(file for file, _ in opened), *in_flight), options, sightings.replies)
        table = replace(table, own_pids=frozenset((*own_pids.values(), *dead)))
        told = (seen.kind.refuse(file, table) for file, seen in opened if seen is not None and seen.by_table)
        if blockers := [*filter(None, told), *refuse(table, (*unseen, *in_flight))]:
            raise Refused(blockers)
        for task in tasks:
            images.add_empty(kinds.FDINFO, task.files_id)
        opened += [(file, None) for file in in_flight]
        references = [_named(file) if seen is None else seen.reference for file, seen in opened]
        numbers = ids.number_files(references, sightings.files)
        new = _collect_files(opened, numbers, table, images, ids, ghosts, segments, {t.pid: t.files_id for t in tasks})
        found = zip(opened, numbers, strict=True)
        locked = [(file, own_pids[file.pid], id) for (file, _), (id, _) in found if file.info.locks]
        for lock in file_locks.collect(locked):
            images.add(kinds.FILE_LOCKS, lock)
        unseen += in_flight
        for tty_info, waiting in terminal.collect_terminals(unseen):
            images.add(kinds.TTY_INFO, tty_info)
            if waiting is not None:
                images.add(kinds.TTY_DATA, waiting)
        _collect_pipe_contents([file for file, seen in opened if seen is None or seen.kind is pipe], images)
        for message_queue in posix_mqueue.collect_queues(unseen, own_pids):
            images.add(kinds.MQUEUE, message_queue)
        ids_of = {name: id for (name, _), (id, _) in zip(references, numbers, strict=True)} if queues else {}
        _collect_queues(queues, new, ids_of, images, reader)


@contextmanager
def _open_table(
    task: TaskTable, reader: ProcReader, sightings: Sightings
) -> Iterator[list[tuple[OpenFile, Seen | None]]]:
    """All descriptors of a frozen task, ascending; with our duplicates where its record does not tell all."""
    found: list[tuple[OpenFile, Seen | None]] = []
    looked = sightings.look(task.pid, task.pidfd, reader, make_seen)
    untold = [fd for fd, seen in looked if seen is None]
    if untold and isinstance(reader, PrefetchedReader):
        reader.fetch_descriptors(task.pid, untold)
    try:
        for fd, seen in looked:
            if seen is not None:
                found.append((seen.file, seen))
            elif (file := read_open_file(task.pid, fd, reader, task.pidfd)) is not None:
                found.append((file, None))
        yield found
    finally:
        for file, _ in found:
            file.duplicate.close()


def _collect_files(
    opened: Sequence[tuple[OpenFile, Seen | None]], numbers: Sequence[tuple[int, bool]], table: OpenTable,
    images: ImageSet, ids: SharedIds, ghosts: Ghosts, segments: Segments, files_id_of: Mapping[int, int],
) -> set[int]:  # fmt: skip
    """Entries of all open files, and which of them are new; the tables' lines."""
    types = {entry.id: entry.type for entry in images.all(kinds.FILES)}
    new: set[int] = set()
    lines: dict[int, list[Record[FdinfoEntry]]] = {}
    told: list[Record[FileEntry]] = []
    for (file, seen), (id, is_new) in zip(opened, numbers, strict=True):
        if is_new and seen is not None and _is_whole(seen, table):
            new.add(id)
            record = _entry_of(seen, id, table)
            types[id] = record.message.type
            if seen.kind is memfd:
                record.message.memfd.inode_id = _describe_memfd(file, segments, images)
            told.append(record)
        elif is_new:
            new.add(id)
            images.extend(kinds.FILES, told)
            told = []
            entry = _collect_file(file, id, table, images, segments)
            types[id] = entry.type
            _collect_path(file, entry, images, ids, ghosts)
        if not file.carrier:
            lines.setdefault(file.pid, []).append(_line_of(file, seen, id, types[id]))
    images.extend(kinds.FILES, told)
    for pid, several in lines.items():
        images.extend(kinds.FDINFO, several, files_id_of[pid])
    return new


def _is_whole(seen: Seen, table: OpenTable) -> bool:
    """Nothing but its entry has to be made."""
    return seen.kind is not unix_socket or unix_socket.is_plain(seen.file, table)


def _entry_of(seen: Seen, id: int, table: OpenTable) -> Record[FileEntry]:
    """Made of the record and, of a UNIX socket, of its state: anew when that has changed, or the number has."""
    state = table.unix.get(seen.file.stat.st_ino) if seen.kind is unix_socket else None
    if seen.entry is None or seen.entry.message.id != id or seen.state != state:
        seen.entry, seen.state = Record(seen.kind.collect(seen.file, id, table)), state
    return seen.entry


def _line_of(file: OpenFile, seen: Seen | None, id: int, type: FdTypes) -> Record[FdinfoEntry]:
    known = seen.line if seen is not None else None
    if known is not None and known.message.id == id and known.message.type == type:
        return known
    made = Record(FdinfoEntry(id=id, flags=FD_CLOEXEC if file.cloexec else 0, type=type, fd=file.fd))
    if seen is not None:
        seen.line = made
    return made


def _describe_memfd(file: OpenFile, segments: Segments, images: ImageSet) -> int:
    """Number of the memory behind the descriptor of a memfd."""
    segment = segments.opened_before(file.stat.st_dev, file.stat.st_ino)
    if segment is None:
        segment = segments.opened(f"/proc/{file.pid}/fd/{file.fd}", file.link)
    if segment is None:
        raise CollectError(file.subject, "cannot be opened as memory")
    return segments.describe(segment, images).shmid


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


def _reference(file: OpenFile) -> Descriptor:
    return (os.getpid(), file.local_fd) if file.carrier else (file.pid, file.fd)


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
        id = ids[_reference(queue.file)]
        for packet, carried in queue.packets if id in new else ():
            rights = [ids[_reference(file)] for file in carried]
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


def _named(file: OpenFile) -> FileReference:
    """With what two descriptors of one open file agree in: not its path, which has names. The rest is for kcmp(2)."""
    link = "" if file.link.startswith("/") else file.link
    return _reference(file), (link, file.stat.st_dev, file.stat.st_ino, file.info.pos, file.flags)


def _kind_or_raise(file: OpenFile) -> Kind:
    kind = kind_of(file)
    if kind is None:
        raise Refused([uncarried.refuse(file)])
    return kind


def _collect_pipe_contents(files: Sequence[OpenFile], images: ImageSet) -> None:
    """Once for every pipe that the task can read."""
    done = {entry.pipe_id for entry in images.all(kinds.PIPES_DATA)}
    named = {entry.pipe_id for entry in images.all(kinds.FIFO_DATA)}
    for file in files:
        if fifo.claims(file) and fifo.reads(file) and fifo.pipe_id(file) not in named:
            content = fifo.collect_content(file)
            images.add(kinds.FIFO_DATA, content.entry, payload=content.payload)
            named.add(content.entry.pipe_id)
        if pipe.claims(file) and pipe.reads(file) and pipe.pipe_id(file) not in done:
            content = pipe.collect_content(file)
            images.add(kinds.PIPES_DATA, content.entry, payload=content.payload)
            done.add(content.entry.pipe_id)
