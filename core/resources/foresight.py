"""What is made of descriptors while their tasks run, of their records: in the freeze it is right where those are."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from fcntl import FD_CLOEXEC
from typing import Final, Protocol

from core.errors import MigrateError
from core.ids.shared import Descriptor, FileReference, SharedIds
from core.images.codec import Record
from core.images.pb.descriptors_pb2 import PipeDataEntry
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.kernel.descriptors import Sight
from core.options import DumpOptions
from core.plan.chosen_options import answers_of_new, has_options
from core.proc.reader import ProcReader
from core.resources import eventfd, memfd, pipe, regular_file, timerfd, udp_socket, unix_socket
from core.resources.context import SETTABLE, Kind, OpenFile, OpenTable, make_table, may_tell_all
from core.resources.file_table import kind_of
from core.resources.shared_memory import Segments, memfd_entry
from core.resources.sightings import Seen, Sightings


class Told(Kind, Protocol):
    """A kind of which a record may tell all."""

    def is_told(self, sight: Sight) -> bool:
        """This one does."""


TOLD: Final[tuple[Told, ...]] = (memfd, regular_file, pipe, udp_socket, unix_socket, eventfd, timerfd)
BY_TABLE: Final[tuple[Kind, ...]] = (pipe, unix_socket)  # whose refusal depends on the table
BY_STATE: Final[tuple[Kind, ...]] = (memfd, unix_socket)  # whose entry depends on more than record and number


def make_seen(file: OpenFile) -> Seen | None:
    """The file of a record, with its kind; None when there is more to it than the record tells."""
    sight, kind = file.sight, kind_of(file)
    told = next((one for one in TOLD if one is kind), None)
    if sight is None or told is None or not may_tell_all(sight) or not told.is_told(sight):
        return None
    return Seen(file, told, told in BY_TABLE, told in BY_STATE, named(file))


def foresee(
    tasks: Sequence[tuple[int, int]], reader: ProcReader, options: DumpOptions, sightings: Sightings,
    segments: Segments | None = None,
) -> None:  # fmt: skip
    """While they run, make what collect_tables will need if it is the same still. `tasks`: pid and pidfd of each;
    `segments`: the memory of memfds as far as it is known."""
    sightings.keep(tasks)
    with suppress(OSError, MigrateError):  # somebody closed one meanwhile, or ended: what was made stays good
        if any(mount.is_network for pid, _ in tasks[:1] for mount in reader.mountinfo(pid)):
            return  # a server that does not answer would hold us up
        opened = [one for pid, pidfd in tasks for one in _look_ahead(pid, pidfd, reader, sightings)]
        sightings.replies.clear()
        table = make_table([file for file, one in opened if one is not None], options, sightings.replies)
        ids = SharedIds(next_file_id=sightings.files.next_id)
        references = [named(file) if one is None else one.reference for file, one in opened]
        numbers = ids.number_files(references, sightings.files)
        types: dict[int, FdTypes] = {}
        for (_, one), (id, is_new) in zip(opened, numbers, strict=True):
            if one is None:
                continue
            one.note_number(id)
            if one.kind is pipe:
                content_of(one)
            if is_new and is_whole(one, table):
                types[id] = entry_of(one, id, table).message.type
                if segments is not None and one.kind is memfd:
                    note_memory(one, segments)
            if id in types:
                line_of(one.file, one, id, types[id])


def _look_ahead(
    pid: int, pidfd: int, reader: ProcReader, sightings: Sightings
) -> Iterator[tuple[OpenFile, Seen | None]]:
    found = sightings.look(pid, pidfd, reader, make_seen)
    untold = {fd: sightings.untold(pid, pidfd, fd) for fd, seen in found if seen is None}
    sightings.settle(pid, pidfd, [fd for fd, _ in found], reader)
    for fd, seen in found:
        if seen is not None:
            yield seen.file, seen
        elif (file := untold[fd]) is not None:
            if (kind := file.socket) is not None and has_options(kind.domain, kind.protocol):
                answers_of_new(kind.domain, kind.type, kind.protocol)  # there is less to ask in the freeze then
            yield file, None


def named(file: OpenFile) -> FileReference:
    """With what two descriptors of one open file agree in, whoever outside has it too and changes its position or flags
    between the looks at them: not its path, which has names. The rest is for kcmp(2)."""
    link = "" if file.link.startswith("/") else file.link
    return reference(file), hash((link, file.stat.st_dev, file.stat.st_ino, file.flags & ~SETTABLE))


def reference(file: OpenFile) -> Descriptor:
    """Whose descriptor it is, for kcmp(2): of what is in flight, ours."""
    return (os.getpid(), file.local_fd) if file.carrier else (file.pid, file.fd)


def is_whole(seen: Seen, table: OpenTable) -> bool:
    """Nothing but its entry has to be made."""
    return seen.kind is not unix_socket or unix_socket.is_plain(seen.file, table)


def entry_of(seen: Seen, id: int, table: OpenTable) -> Record[FileEntry]:
    """Made of the record and, of a UNIX socket, of its state: anew when that has changed, or the number has."""
    state = table.unix.get(seen.file.stat.st_ino) if seen.kind is unix_socket else None
    if seen.entry is None or (seen.state is not state and seen.state != state):
        seen.entry, seen.state = Record(seen.kind.collect(seen.file, id, table)), state
        seen.type = seen.entry.message.type
    return seen.entry


def line_of(file: OpenFile, seen: Seen | None, id: int, type: FdTypes) -> Record[FdinfoEntry]:
    """Of the table that it is in."""
    if seen is not None and seen.line is not None:
        return seen.line
    made = Record(FdinfoEntry(id=id, flags=FD_CLOEXEC if file.cloexec else 0, type=type, fd=file.fd))
    if seen is not None:
        seen.line = made
    return made


def is_right(seen: Seen, table: OpenTable, segments: Segments) -> bool:
    """Its entry is, where that is made of more than its record: its peer is carried, its memory has the same number."""
    if seen.kind is memfd:
        segment = segments.opened_before(*seen.file.inode)
        return segment is not None and segment.id == seen.segment
    state = seen.state
    return state is not None and table.unix.get(seen.file.stat.st_ino) is state and state.peer in table.unix


def note_memory(seen: Seen, segments: Segments) -> None:
    """Of a memfd that has an entry, when its memory was met before: that has the memory's number."""
    segment = segments.opened_before(*seen.file.inode)
    if segment is not None and seen.entry is not None and seen.file.sight is not None:
        seen.segment = seen.entry.message.memfd.inode_id = segment.id
        seen.memory = Record(memfd_entry(segment, seen.file.stat, seen.file.sight.head.seals))


def content_of(seen: Seen) -> Record[PipeDataEntry] | None:
    """Of a pipe that the record tells all of, where it is read."""
    if seen.content is None and pipe.reads(seen.file):
        content = pipe.collect_content(seen.file)
        seen.content = Record(content.entry, content.payload)
    return seen.content
