"""A task's descriptor table as a whole: every descriptor in its number, duplicates sharing one open file.

Names the kinds; what a kind is, its own module knows. Making tables anew is table_plan.
"""

import os
from collections.abc import Hashable, Sequence
from typing import Final

from core.errors import Blocker, RestoreError
from core.images import kinds
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
    netlink_socket,
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
)

KINDS: Final[tuple[Kind, ...]] = (
    memfd, posix_mqueue, regular_file, pipe, fifo, tcp_socket, udp_socket, unix_socket, netlink_socket, eventfd,
    epoll, timerfd, signalfd, pidfd, inotify, fanotify, terminal,
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
        return refuse(table), losses(table)


def losses(table: OpenTable) -> list[str]:
    """What of these will be lost, in words."""
    return [lost for kind in (tcp_socket, udp_socket, unix_socket, netlink_socket) for lost in kind.losses(table)]


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
            return terminal.is_end_of(file, pid, fd, link, found, reader)
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


def check_made(pid: int, reader: ProcReader, images: ImageSet, files_id: int) -> None:
    """After the program: RestoreError unless the task has exactly the descriptors of its image."""
    wanted = {info.fd for info in images.all(kinds.FDINFO, files_id)}
    made = set(reader.fds(pid))
    if made != wanted:
        missing, extra = sorted(wanted - made), sorted(made - wanted)
        raise RestoreError(f"pid {pid}: descriptors are not those of the image: missing {missing}, too many {extra}")
