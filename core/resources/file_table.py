"""A task's descriptor table as a whole: every descriptor in its number, duplicates sharing one open file.

Names the kinds; what a kind is, its own module knows. Making tables anew is table_plan.
"""

import os
from collections.abc import Hashable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fcntl import FD_CLOEXEC
from typing import Final

from core.errors import Blocker, Refused, RestoreError
from core.ids.shared import SharedIds
from core.images import kinds
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.images.store import ImageSet
from core.options import DumpOptions, TcpChoice
from core.proc.main_thread import main_threads
from core.proc.reader import ProcReader
from core.resources import (
    epoll,
    eventfd,
    fanotify,
    fifo,
    file_locks,
    inotify,
    memfd,
    pidfd,
    pipe,
    posix_mqueue,
    regular_file,
    signalfd,
    tcp_socket,
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
    looking_at,
    make_table,
    open_files,
    owner_is_foreign,
    read_in_flight,
)
from core.resources.ghost_file import Ghosts
from core.resources.shared_memory import Segments
from core.resources.unix_queue import Packet

KINDS: Final[tuple[Kind, ...]] = (
    memfd, posix_mqueue, regular_file, pipe, fifo, tcp_socket, udp_socket, unix_socket, eventfd, epoll, timerfd,
    signalfd, pidfd, inotify, fanotify, terminal,
)  # fmt: skip


def kind_of(file: OpenFile) -> Kind | None:
    """The kind that claims a descriptor."""
    return next((kind for kind in KINDS if kind.claims(file)), None)


def refuse(table: OpenTable, files: Sequence[OpenFile] | None = None) -> list[Blocker]:
    """Every descriptor (of `files`, or of the whole table) that cannot be carried; the task may run."""
    blockers = []
    for file in table.files if files is None else files:
        with looking_at(file):
            if (blocker := _refuse_one(file, table)) is not None:
                blockers.append(blocker)
    return blockers


def _refuse_one(file: OpenFile, table: OpenTable) -> Blocker | None:
    kind = kind_of(file)
    if kind is None:
        return uncarried.refuse(file)
    if owner_is_foreign(file, table):
        return file.blocker("owner", "its signals go to a group, to one thread or outside of the tree (F_SETOWN)")
    return kind.refuse(file, table) or file_locks.refuse(file, table)


def probe_table(pid: int, pidfd: int, reader: ProcReader, tcp: TcpChoice) -> tuple[list[Blocker], list[str]]:
    """For preflight, while the task runs: what cannot be carried, and what will be lost."""
    with open_files(pid, reader, pidfd, runs=True) as files:
        table = make_table(files, DumpOptions(tcp=tcp))
        return refuse(table), [*tcp_socket.losses(table), *udp_socket.losses(table), *unix_socket.losses(table)]


def find_other_holders(table: OpenTable, pids: Sequence[int], reader: ProcReader) -> list[Blocker]:
    """Pipes, sockets, message queues and deleted files written to that processes outside of `pids` hold too.

    Looks at every process: not while frozen.
    """
    ours: dict[str, list[OpenFile]] = {}
    for file in table.files:
        for link in _lonely_links(file):
            ours.setdefault(link, []).append(file)
    queues = [file for file in table.files if posix_mqueue.claims(file)]
    shared: dict[Hashable, tuple[OpenFile, int]] = {}
    for pid in main_threads(reader, pids):
        for fd, link in _links(pid, reader):
            for file in (*ours.get(link, ()), *(file for file in queues if link.endswith(posix_mqueue.ending(file)))):
                if _is_same(file, pid, fd, link, reader):
                    shared.setdefault(_what_is_shared(file), (file, pid))
    hint = "migrate it alone: start it with descriptors of its own"
    return [file.blocker("shared", f"process {pid} has it open too", hint) for file, pid in shared.values()]


def _lonely_links(file: OpenFile) -> Sequence[str]:
    """Links of descriptors to whose holders it would be lost: it is made anew over there."""
    if terminal.claims(file):
        return (file.link, terminal.slave_path(file)) if terminal.is_master(file) else ()
    if posix_mqueue.claims(file):
        return ()
    written = regular_file.is_nameless(file) and file.flags & os.O_ACCMODE != os.O_RDONLY
    return (file.link,) if file.link.startswith(("pipe:", "socket:")) or fifo.claims(file) or written else ()


def _what_is_shared(file: OpenFile) -> Hashable:
    """Named once, however many descriptors lead there. All masters have one link."""
    return file.link, terminal.number_of(file) if terminal.claims(file) else None


def _is_same(file: OpenFile, pid: int, fd: int, link: str, reader: ProcReader) -> bool:
    """Names of deleted files come again: the inode tells."""
    try:
        found = reader.fd_stat(pid, fd)
        if terminal.claims(file):
            return terminal.is_end_of(file, link, found, reader.fdinfo(pid, fd), reader)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (file.stat.st_dev, file.stat.st_ino)


def find_peer_holders(table: OpenTable, reader: ProcReader) -> dict[int, str]:
    """Who has the other ends of UNIX sockets whose peers are not in `table`, by inode. Looks at every process."""
    wanted = {f"socket:[{state.peer}]": state.peer for state in table.unix.values()
              if state.peer and state.peer not in table.unix}  # fmt: skip
    found: dict[int, str] = {}
    for pid in main_threads(reader) if wanted else ():
        for _, link in _links(pid, reader):
            if link in wanted and wanted[link] not in found:
                found[wanted[link]] = f"process {pid} ({_comm(pid, reader)})"
    return found


def is_found_by_path(file: OpenFile) -> bool:
    """Its path has to be there. Pseudo-terminals and message queues are made."""
    is_made = terminal.claims(file) or posix_mqueue.claims(file)
    return file.link.startswith("/") and file.path_is_same and not is_made


def watched(file: OpenFile) -> list[str]:
    """Paths that have to be found over there without being open."""
    found = inotify.watches(file) if inotify.claims(file) else fanotify.marks(file) if fanotify.claims(file) else ()
    return [one.path for one in found if one.path]


def _comm(pid: int, reader: ProcReader) -> str:
    try:
        return reader.comm(pid)
    except OSError:
        return "ended"


def _links(pid: int, reader: ProcReader) -> list[tuple[int, str]]:
    found = []
    try:
        for fd in reader.fds(pid):
            found.append((fd, reader.fd_link(pid, fd)))
    except OSError:  # it ended, closed one, or is not ours to look at
        pass
    return found


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
) -> None:
    """Add the tables of a frozen tree to `images`: fdinfo, files, contents of pipes, queues of UNIX sockets.

    Deleted files go to `ghosts`, memfds to `segments`: their contents are the caller's to carry. `dead`: own pids of
    the zombies. Refused with every blocker.
    """
    files_id_of = {task.pid: task.files_id for task in tasks}
    with ExitStack() as stack:
        files = [file for task in tasks for file in stack.enter_context(open_files(task.pid, reader, task.pidfd))]
        queues = _look_at_queues(files, reader, ids)
        in_flight = [file for queue in queues for _, carried in queue.packets for file in carried]
        statuses = reader.brief_statuses({task.pid: [task.pid] for task in tasks})
        own_pids = {pid: threads[pid].own_pid for pid, threads in statuses.items()}
        table = make_table((*files, *in_flight), options)
        table = replace(table, own_pids=frozenset((*own_pids.values(), *dead)))
        if blockers := refuse(table):
            raise Refused(blockers)
        for task in tasks:
            images.add_empty(kinds.FDINFO, task.files_id)
        types = {entry.id: entry.type for entry in images.all(kinds.FILES)}
        ids.compare_files((*_reference(file), _sharing_key(file)) for file in table.files)
        new: set[int] = set()
        locked: list[tuple[OpenFile, int, int]] = []
        for file in table.files:
            id, is_new = _identify(file, ids)
            if file.info.locks:
                locked.append((file, own_pids[file.pid], id))
            if is_new:
                new.add(id)
                entry = _collect_file(file, id, table, images, segments)
                types[id] = entry.type
                _collect_path(file, entry, images, ids, ghosts)
            if not file.carrier:
                flags = FD_CLOEXEC if file.cloexec else 0
                info = FdinfoEntry(id=id, flags=flags, type=types[id], fd=file.fd)
                images.add(kinds.FDINFO, info, files_id_of[file.pid])
        for lock in file_locks.collect(locked):
            images.add(kinds.FILE_LOCKS, lock)
        for tty_info, waiting in terminal.collect_terminals(table.files):
            images.add(kinds.TTY_INFO, tty_info)
            if waiting is not None:
                images.add(kinds.TTY_DATA, waiting)
        _collect_pipe_contents(table.files, images)
        for message_queue in posix_mqueue.collect_queues(table.files, own_pids):
            images.add(kinds.MQUEUE, message_queue)
        _collect_queues(queues, new, ids, images, reader)


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


def _reference(file: OpenFile) -> tuple[int, int]:
    return (os.getpid(), file.local_fd) if file.carrier else (file.pid, file.fd)


def _identify(file: OpenFile, ids: SharedIds) -> tuple[int, bool]:
    return ids.file(*_reference(file), _sharing_key(file))


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
    queues: Sequence[_Queue], new: set[int], ids: SharedIds, images: ImageSet, reader: ProcReader
) -> None:
    """Packets of the sockets that no table before had."""
    for queue in queues:
        id, _ = _identify(queue.file, ids)
        for packet, carried in queue.packets if id in new else ():
            rights = [_identify(file, ids)[0] for file in carried]
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


def _sharing_key(file: OpenFile) -> tuple[str, int, int, int, int]:
    """What two descriptors of one open file agree in; the rest is for kcmp(2)."""
    return file.link, file.stat.st_dev, file.stat.st_ino, file.info.pos, file.flags


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


def check_made(pid: int, reader: ProcReader, images: ImageSet, files_id: int) -> None:
    """After the program: RestoreError unless the task has exactly the descriptors of its image."""
    wanted = {info.fd for info in images.all(kinds.FDINFO, files_id)}
    made = set(reader.fds(pid))
    if made != wanted:
        missing, extra = sorted(wanted - made), sorted(made - wanted)
        raise RestoreError(f"pid {pid}: descriptors are not those of the image: missing {missing}, too many {extra}")
