"""Plans the descriptor tables of a tree: every file made once, every descriptor in its number.

Descriptors come in ascending order, so that the number the kernel gives each time is known beforehand. What a kind is,
its own module knows.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fcntl import F_SETFD, FD_CLOEXEC
from socket import IPPROTO_UDP
from typing import Final

from core.errors import Blocker, ImageError, Refused
from core.images import kinds
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.images.store import ImageSet
from core.options import TcpChoice
from core.plan.file_names import check_member, describe
from core.plan.ops import FdAllocator, Program, Syscall
from core.plan.pipe_ops import PipeContent
from core.plan.placement import Wanted, place
from core.plan.queues import queues_of
from core.plan.segments import memfd_segments
from core.plan.terminals import FIRST_HANDED
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
    unix_queue,
    unix_socket,
)
from core.resources.context import MadeAlone
from core.resources.unix_connected import Sockets
from core.resources.unix_queue import Sending

BY_TYPE: Final[dict[FdTypes, MadeAlone]] = {
    FdTypes.REG: regular_file,
    FdTypes.PIPE: pipe,
    FdTypes.UNIXSK: unix_socket,
    FdTypes.EVENTFD: eventfd,
    FdTypes.EVENTPOLL: epoll,
    FdTypes.TIMERFD: timerfd,
    FdTypes.SIGNALFD: signalfd,
    FdTypes.PIDFD: pidfd,
    FdTypes.INOTIFY: inotify,
    FdTypes.FANOTIFY: fanotify,
    FdTypes.NETLINKSK: netlink_socket,
}
PIPES: Final = (FdTypes.PIPE, FdTypes.FIFO)
PLANNED_LATE: Final = {
    FdTypes.TIMERFD: timerfd.plan_late,
    FdTypes.REG: regular_file.plan_late,
    FdTypes.INOTIFY: inotify.plan_late,
    FdTypes.FANOTIFY: fanotify.plan_late,
}
LATE: Final = (FdTypes.EVENTPOLL, *PLANNED_LATE)


@dataclass(frozen=True, slots=True)
class FilePlan:
    """`program` makes all descriptors; `late_program`, when all else stands, registers with epoll, arms timers, watches
    files; `close_program`, when every task has its descriptors, closes what was kept for others. `handed`: segments and
    terminals whose descriptors have to be in the task beforehand, each with its number; `program` closes them.
    `taken`: what a task has beforehand, since another one that shares its table has made it. `owners`: tasks from whom
    `program` takes descriptors."""

    program: Program
    late_program: Program
    close_program: Program = ()
    handed: tuple[tuple[int, int], ...] = ()
    taken: frozenset[int] = frozenset()
    owners: frozenset[int] = frozenset()


def plan(images: ImageSet, files_id: int, *, tcp: TcpChoice) -> FilePlan:
    """Programs that fill the only table; ImageError when the images do not fit together."""
    return plan_tables(images, {1: files_id}, tcp=tcp)[1]


def plan_tables(
    images: ImageSet, tables: Mapping[int, int], *, tcp: TcpChoice, terminal: str = ""
) -> dict[int, FilePlan]:
    """Programs that fill the empty tables of a tree's tasks, in that order: pid (as it calls itself) → table's number.
    The first of those that share one makes it.

    An open file is made in the first task that has it, the others take it from there (pidfd_getfd). `terminal`: path of
    the one that a shell's job gets here.
    """
    placed: dict[int, tuple[int, int]] = {}
    plans: dict[int, FilePlan] = {}
    files = Files(images, terminal)
    locks = images.all(kinds.FILE_LOCKS)
    made: dict[int, frozenset[int]] = {}  # by table
    for pid, files_id in tables.items():
        infos = images.all(kinds.FDINFO, files_id) if files.queues else ()
        notify = posix_mqueue.plan_notify(files.queues.values(), files.by_id, infos, pid)
        late = (*file_locks.plan(locks, pid), *notify)
        if files_id in made:
            plans[pid] = FilePlan((), late, taken=made[files_id])
            continue
        planner = _TablePlanner(Table(files, files_id), pid, tables, placed, tcp)
        plans[pid] = planner.plan(late)
        made[files_id] = planner.numbers
    return plans


def find_sockets(images: ImageSet) -> Sockets:
    """All UNIX sockets of the images and what waits in them."""
    entries = images.all(kinds.FILES)
    for entry in entries:
        check_member(entry)
    return Sockets(entries, images.records(kinds.SK_QUEUES), 1 + max((entry.id for entry in entries), default=0))


class _TablePlanner:
    """Plans one task's table. `placed`: file → (pid, descriptor) for all that tasks before it have made."""

    def __init__(
        self, table: "Table", pid: int, pids: Collection[int], placed: dict[int, tuple[int, int]], tcp: TcpChoice
    ) -> None:
        self._table = table
        self._pid = pid
        self._pids = pids
        self._placed = placed
        self._own: dict[int, int] = {}  # files that were made here: their descriptors
        self._tcp = tcp
        self._fds = FdAllocator()
        self._pidfds: dict[int, int] = {}
        self._spare = 1 + max((info.fd for info in table.infos), default=0)
        self._taken: dict[int, int] = {}  # files of other tasks, by id
        self._kept: list[int] = []  # descriptors that are here for other tasks only
        self._handed: dict[int, int] = {}  # descriptors of memfds' memory, by segment, and of terminals' masters

    def plan(self, locks: Program) -> FilePlan:
        """All of it; `locks` are taken last."""
        ops: list[Syscall] = []
        late: list[FileEntry] = []
        done: set[int] = set()
        for info in self._table.infos:
            if info.id in done:
                continue
            if info.id in self._placed:
                done.add(info.id)
                ops += self._take(info.id)
                continue
            group = self._table.made_together(info.id)
            done.update(entry.id for entry in group)
            ops += self._make(group)
            late.append(group[0])
        ops += self._finish_sockets()
        ops += [Syscall("close", (fd,), "the way to another task's descriptors") for fd in self._pidfds.values()]
        ops += [Syscall("close", (fd,), "the way to a memfd or a terminal") for fd in self._handed.values()]
        return FilePlan(
            tuple(ops),
            (*(op for type in LATE for entry in late if entry.type == type for op in self._plan_late(entry)), *locks),
            tuple(Syscall("close", (fd,), "kept for another task, or in flight") for fd in self._kept),
            tuple(self._handed.items()),
            owners=frozenset(self._pidfds),
        )

    @property
    def numbers(self) -> frozenset[int]:
        """Every descriptor that there is when the program has run."""
        return frozenset({*self._kept, *(info.fd for info in self._table.infos)})

    def _plan_late(self, entry: FileEntry) -> Program:
        number, why = self._own[entry.id], self._table.why(entry.id)
        if entry.type != FdTypes.EVENTPOLL:
            return PLANNED_LATE[entry.type](entry, number, why)
        numbers = {info.fd: info.flags for info in self._table.infos} | dict.fromkeys(self._kept, FD_CLOEXEC)
        return epoll.plan_late(entry, number, numbers, why)

    def _finish_sockets(self) -> list[Syscall]:
        """Names, connections and queues of the sockets made here, which needs what is in flight in them."""
        sockets, ops = self._table.sockets, []
        late: list[Syscall] = []  # when the sockets have their names, of which who watches them is told nothing
        for id in sockets.in_flight(self._own):
            if id not in self._placed:
                group = self._table.made_together(id)
                ops += self._make(group)
                late += self._plan_late(group[0]) if group[0].type in LATE else ()
            elif self._placed[id][0] != self._pid and id not in self._taken:
                ops += self._take(id)
        numbers = self._own
        ops += [*sockets.plan_finish(numbers, self._table.why), *late]
        everything = self._taken | numbers
        sending = Sending(sockets.by_id, everything, lambda packet: sockets.route(packet, numbers), self._pids)
        filled, rooms = unix_queue.plan_send(sockets.packets_for(numbers), sending, self._fds, self._table.why)
        return [*ops, *filled, *sockets.plan_last(numbers, rooms, self._table.why)]

    def _make(self, group: Sequence[FileEntry]) -> list[Syscall]:
        if group[0].type == FdTypes.MEMFD:
            program, made = self._make_memfd(group[0])
        elif group[0].type == FdTypes.TTY:
            program, made = self._make_terminal(group[0])
        else:
            program, made = _make(group, self._table, self._fds, self._tcp)
        wanted = {id: self._table.wanted(id) or [self._keep(id)] for id in made}
        self._own |= {id: numbers[0].fd for id, numbers in wanted.items()}
        self._placed |= {id: (self._pid, numbers[0].fd) for id, numbers in wanted.items()}
        return [*program, *place({number: wanted[id] for id, number in made.items()}, self._fds)]

    def _make_memfd(self, entry: FileEntry) -> tuple[Program, dict[int, int]]:
        handed = self._hand(self._table.files.segments[entry.id])
        program, number = memfd.plan(entry, self._fds, self._table.why(entry.id), handed)
        return program, {entry.id: number}

    def _make_terminal(self, entry: FileEntry) -> tuple[Program, dict[int, int]]:
        table, files, id = self._table, self._table.files, entry.tty.tty_info_id
        master = files.tty_infos.get(id | 1)
        handed = self._hand(FIRST_HANDED | id | 1) if master is not None else None
        is_own = master is not None and master.sid != 0 and master.sid == files.sessions.get(self._pid)
        place = terminal.Place(handed, is_own, files.terminal)
        link, why = table.link_of(entry), table.why(entry.id)
        return terminal.plan_terminal(entry, link, files.tty_infos, place, self._fds, why)

    def _hand(self, id: int) -> int:
        """The number that the task has `id` as, of what is made for it."""
        if id not in self._handed:
            self._handed[id] = self._next_spare()
        return self._handed[id]

    def _keep(self, id: int) -> Wanted:
        """A number for an end that only other tasks have."""
        self._kept.append(fd := self._next_spare())
        return Wanted(fd, True, f"{self._table.describe(id)}, for another task")

    def _next_spare(self) -> int:
        self._spare += 1
        return self._spare - 1

    def _take(self, id: int) -> list[Syscall]:
        owner, fd = self._placed[id]
        why = self._table.why(id)
        ops = self._open_pidfd(owner)
        number = self._fds.take()
        ops.append(Syscall("pidfd_getfd", (self._pidfds[owner], fd, 0), f"{why}: from pid {owner}"))
        wanted = self._table.wanted(id) or [self._keep(id)]
        self._taken[id] = wanted[0].fd
        kept = [one for one in wanted if one.fd == number and not one.cloexec]  # pidfd_getfd sets close-on-exec
        ops += place({number: wanted}, self._fds)
        return ops + [Syscall("fcntl", (one.fd, F_SETFD, 0), f"{one.why}: not close-on-exec") for one in kept]

    def _open_pidfd(self, owner: int) -> list[Syscall]:
        if owner in self._pidfds:
            return []
        why = f"pid {owner}, whose descriptors are shared"
        made, self._pidfds[owner] = self._fds.take(), self._next_spare()
        opened = Syscall("pidfd_open", (owner, 0), why)
        return [opened, *place({made: [Wanted(self._pidfds[owner], True, why)]}, self._fds)]


class Files:
    """Every open file of the images: what all of their tables have in common. `terminal` as in plan_tables."""

    def __init__(self, images: ImageSet, terminal: str = "") -> None:
        self.images = images
        self.sockets = find_sockets(images)
        self.terminal = terminal
        self.tty_infos = {info.id: info for info in images.all(kinds.TTY_INFO)}
        self.sessions = {entry.pid: entry.sid for entry in images.all(kinds.PSTREE)}
        self.by_id = {entry.id: entry for entry in images.all(kinds.FILES)} | self.sockets.gone
        self.ends: dict[tuple[int, int], list[FileEntry]] = {}
        for entry in self.by_id.values():
            if entry.type in PIPES:
                self.ends.setdefault((entry.type, pipe_id(entry)), []).append(entry)
        self.contents = {
            (type, record.message.pipe_id): PipeContent(record.message, record.payload)
            for type, kind in ((FdTypes.PIPE, kinds.PIPES_DATA), (FdTypes.FIFO, kinds.FIFO_DATA))
            for record in images.records(kind)
        }
        self.segments = memfd_segments(images)
        self.queues = queues_of(images)


class Table:
    """One table of the images, by descriptor and by file."""

    def __init__(self, files: Files, files_id: int) -> None:
        self.files = files
        self.sockets = files.sockets
        self._files = files.by_id
        self.infos = sorted(files.images.all(kinds.FDINFO, files_id), key=lambda info: info.fd)
        self.by_id: dict[int, list[FdinfoEntry]] = {}
        for info in self.infos:
            self.by_id.setdefault(info.id, []).append(info)
        self._wanted: dict[int, list[Wanted]] = {}
        self._check(kinds.FDINFO.file_name(files_id))

    def _check(self, name: str) -> None:
        for id, infos in self.by_id.items():
            if id not in self._files:
                raise ImageError(name, f"fd {infos[0].fd} is file {id}, which {kinds.FILES.file_name()} does not have")
        if len({info.fd for info in self.infos}) != len(self.infos):
            raise ImageError(name, "has a descriptor twice")

    def made_together(self, id: int) -> list[FileEntry]:
        """The file, with the other ends if it is a pipe or a pair of sockets."""
        if id not in self._files:
            raise ImageError(kinds.FILES.file_name(), f"does not have file {id}, which is in flight")
        entry = self._files[id]
        if entry.type == FdTypes.UNIXSK:
            return [self._files[one] for one in self.sockets.made_with(id)]
        if entry.type not in PIPES:
            return [entry]
        return self.files.ends[entry.type, pipe_id(entry)]

    def content(self, entry: FileEntry) -> PipeContent | None:
        """What a pipe or a FIFO held."""
        return self.files.contents.get((entry.type, pipe_id(entry)))

    def path_of(self, entry: FileEntry) -> FileEntry:
        """The file that says where a FIFO is."""
        path = self._files.get(entry.fifo.regf_id)
        if path is None or path.type != FdTypes.REG:
            raise ImageError(kinds.FILES.file_name(), f"FIFO {entry.id} has no path: no file {entry.fifo.regf_id}")
        return path

    def link_of(self, entry: FileEntry) -> str:
        """What a terminal was opened as; "" when that is not known."""
        path = self._files.get(entry.tty.regf_id)
        return path.reg.name if path is not None else ""

    def wanted(self, id: int) -> list[Wanted]:
        """All numbers of a file, ascending."""
        if (found := self._wanted.get(id)) is None:
            infos, name = self.by_id.get(id, ()), describe(self._files[id])
            found = [Wanted(info.fd, bool(info.flags & FD_CLOEXEC), f"fd {info.fd} ({name})") for info in infos]
            self._wanted[id] = found
        return found

    def why(self, id: int) -> str:
        """How messages name a file: by its first number, if it has one here."""
        wanted = self.wanted(id)
        return wanted[0].why if wanted else self.describe(id)

    def describe(self, id: int) -> str:
        """How messages name a file without a number."""
        return describe(self._files[id])


def _make(group: Sequence[FileEntry], table: Table, fds: FdAllocator, tcp: TcpChoice) -> tuple[Program, dict[int, int]]:
    """Ops that make a file (or all ends of a pipe), and the number of each by id."""
    entry = group[0]
    if entry.type == FdTypes.PIPE:
        return pipe.plan_pipe(group, table.content(entry), fds, {end.id: table.why(end.id) for end in group})
    if entry.type == FdTypes.FIFO:
        paths = {end.fifo.regf_id: table.path_of(end).reg for end in group}
        return fifo.plan_fifo(group, paths, table.content(entry), fds, {end.id: table.why(end.id) for end in group})
    why = table.why(entry.id)
    if entry.type == FdTypes.UNIXSK:
        return table.sockets.plan_made([one.id for one in group], fds, table.why)
    if entry.type == FdTypes.INETSK:
        _check_connection(entry, tcp, why)
    if entry.type == FdTypes.MQUEUEFD:
        program, number = posix_mqueue.plan(entry, table.files.queues[entry.mqueue.queue_id].name, fds, why)
    else:
        program, number = _planning_kind(entry, why).plan(entry, fds, why)
    return program, {entry.id: number}


def _check_connection(entry: FileEntry, tcp: TcpChoice, why: str) -> None:
    if tcp_socket.is_connection(entry.isk) and tcp != "close":
        hint = "--tcp close: the program finds it closed by its peer"
        raise Refused([Blocker("fd-tcp-established", why, "is an established TCP connection", hint)])


def _planning_kind(entry: FileEntry, why: str) -> MadeAlone:
    if entry.type == FdTypes.INETSK:
        return udp_socket if entry.isk.proto == IPPROTO_UDP else tcp_socket
    kind = BY_TYPE.get(entry.type)
    if kind is None:
        raise ImageError(kinds.FILES.file_name(), f"{why}: a kind of file that is not carried")
    return kind


def pipe_id(entry: FileEntry) -> int:
    """What the ends of a pipe or of a FIFO share."""
    return entry.fifo.pipe_id if entry.type == FdTypes.FIFO else entry.pipe.pipe_id
