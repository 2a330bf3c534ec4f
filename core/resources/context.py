"""What the kinds of open files share: the record of one descriptor, how it is read, owner and flags ops.

Must not know any single kind of file.
"""

import errno
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, Protocol

from core.errors import Blocker, MigrateError
from core.images.pb.descriptors_pb2 import FownEntry
from core.images.pb.files_pb2 import FileEntry
from core.kernel.calls import address_of, pidfd_getfd, syscall
from core.kernel.descriptors import Asked, Sight
from core.kernel.posix_mqueue import device, is_message_queue
from core.kernel.unix_diag import Replies, UnixState, add_states
from core.options import DumpOptions
from core.plan.ops import FdAllocator, Program, Syscall
from core.plan.socket_options import LOOKED_AT, borrowed_socket
from core.proc.fdinfo import FdInfo, parse_fdinfo
from core.proc.main_thread import main_thread
from core.proc.reader import ProcReader
from core.proc.text import shown

O_LARGEFILE: Final = 0o100000
O_ACCMODE: Final = os.O_ACCMODE
# What fcntl(F_SETFL) can change; the kernel ignores the rest.
SETTABLE: Final = os.O_APPEND | os.O_NONBLOCK | os.O_ASYNC | os.O_DIRECT | os.O_NOATIME
F_SETOWN_EX: Final = 15
F_GETOWN_EX: Final = 16
F_GETOWNER_UIDS: Final = 17
F_OWNER_PID: Final = 1
TIMERFD_LINK: Final = "anon_inode:[timerfd]"
TIMER_LOOKS: Final = 5
TIMER_DUE_S: Final = 0.001
MANY_SOCKETS: Final = 32  # of AF_UNIX: of fewer it is cheaper to ask for each
COMING: Final = "coming; until then close it before the migration"


@dataclass(frozen=True, slots=True)
class SocketType:
    """What socket(2) was called with."""

    domain: int
    type: int
    protocol: int


class ClosedMeanwhile(MigrateError):
    """The running task has closed the descriptor, or has another file there now."""


@dataclass(slots=True, eq=False)
class Duplicate:
    """Ours of a task's descriptor, which keeps the file open: what a running task closes meanwhile has no end for its
    peer, and epoll(7) goes on reporting it. So of a running task it is held for one look at a time (`looking_at`)."""

    number: int  # below 0: it is not held now
    take: Callable[[], int] | None = None  # anew, ClosedMeanwhile; None: it is held all the time
    taken: "list[Duplicate] | None" = None  # those of a task that were taken

    def fileno(self) -> int:
        """Its number here, taken anew where it was given back."""
        if self.number < 0 and self.take is not None:
            self.number = self.take()
            if self.taken is not None:
                self.taken.append(self)
        return self.number

    def close(self) -> None:
        """Once; `fileno` may take it again."""
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)


@dataclass(frozen=True, slots=True)
class OpenFile:
    """One descriptor of a task, valid while `open_files` is."""

    pid: int
    fd: int
    cloexec: bool
    link: str
    stat: os.stat_result
    info: FdInfo
    duplicate: Duplicate
    socket: SocketType | None
    path_is_same: bool  # the link, looked up from the task's root, leads to this very file
    is_message_queue: bool = False  # of POSIX
    sight: Sight | None = None  # tells all that its image needs; nobody owns it
    carrier: str = ""  # not a descriptor: it waits in the queue of this UNIX socket, and `fd` is -1

    @property
    def local_fd(self) -> int:
        """Our duplicate of it; of a running task within `looking_at` only. ClosedMeanwhile."""
        return self.duplicate.fileno()

    @property
    def inode(self) -> tuple[int, int]:
        """Device and number."""
        return self.stat.st_dev, self.stat.st_ino

    @property
    def flags(self) -> int:
        """O_ flags as open(2) takes them, without O_CLOEXEC, which belongs to the descriptor."""
        return self.info.flags & ~os.O_CLOEXEC

    @property
    def is_unix_socket(self) -> bool:
        """By family."""
        return self.socket is not None and self.socket.domain == socket.AF_UNIX

    @property
    def carries(self) -> bool:
        """A UNIX socket with descriptors in flight; the kernel tells since Linux 5.11."""
        return self.sight is None and any(
            line.startswith("scm_fds:") and line.split()[1:] != ["0"] for line in self.info.lines
        )

    @property
    def subject(self) -> str:
        """How messages name it."""
        link = shown(self.link)
        return f"{link} in flight to {self.carrier}" if self.carrier else f"fd {self.fd} ({link})"

    def blocker(self, code: str, reason: str, hint: str | None = COMING) -> Blocker:
        """Why this descriptor cannot be carried."""
        return Blocker(f"fd-{code}", self.subject, reason, hint)


@dataclass(frozen=True, slots=True)
class OpenTable:
    """A task's descriptors together, for what a single one does not tell, and what the user chose."""

    files: tuple[OpenFile, ...]
    options: DumpOptions = field(default_factory=DumpOptions)
    unix: Mapping[int, UnixState] = field(default_factory=dict)  # by inode, of every table that is carried together
    holders: Mapping[int, str] = field(default_factory=dict)  # who holds sockets outside, by inode; preflight knows
    pids: frozenset[int] = frozenset()  # whose files they are
    own_pids: frozenset[int] = frozenset()  # what the processes of the tree call themselves; none: not asked for
    access: Mapping[str, int] = field(default_factory=dict)  # of pipes by link: 1 << O_ACCMODE of all their ends
    queue_device: int = 0  # of the message queues of this thread's IPC namespace, if there are any in the table
    unseen: bool = False  # more is in flight than anybody looked at: the tasks run


class Kind(Protocol):
    """What every module of a kind of open file offers to a dump."""

    def claims(self, file: OpenFile) -> bool:
        """True when the descriptor is of this kind."""

    def refuse(self, file: OpenFile, table: OpenTable) -> Blocker | None:
        """Why it cannot be carried; asked by preflight (the task runs) and before a dump (it is frozen)."""

    def collect(self, file: OpenFile, id: int, table: OpenTable) -> FileEntry:
        """The image of a descriptor that is not refused."""


class MadeAlone(Kind, Protocol):
    """A kind whose files are made one by one."""

    def plan(self, entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
        """Ops that make it, and the number it gets."""


def make_table(files: Iterable[OpenFile], options: DumpOptions, replies: Replies | None = None) -> OpenTable:
    """The table of these files, with what the kernel tells of their UNIX sockets. `replies`: see add_states."""
    kept = tuple(files)
    sockets = [file for file in kept if file.socket is not None and file.is_unix_socket]
    untold = [file for file in kept if file.sight is None]
    unseen = any(file.carries for file in untold) and not any(file.carrier for file in untold)
    states: dict[int, UnixState] = {}
    inodes = {file.stat.st_ino for file in sockets} if len(sockets) >= MANY_SOCKETS else set()
    add_states(_with_inodes(sockets, states), states, inodes, replies)
    access: dict[str, int] = {}
    for file in kept:
        if file.link[:5] == "pipe:":
            access[file.link] = access.get(file.link, 0) | 1 << (file.info.flags & O_ACCMODE)
    pids = frozenset([file.pid for file in kept])
    queue_device = device() if any(file.is_message_queue for file in untold) else 0
    return OpenTable(kept, options, states, pids=pids, access=access, unseen=unseen, queue_device=queue_device)


def _with_inodes(files: Iterable[OpenFile], known: Mapping[int, UnixState]) -> Iterator[tuple[int, int]]:
    for file in files:
        if file.stat.st_ino in known:
            continue
        with looking_at(file):
            yield file.local_fd, file.stat.st_ino


@contextmanager
def looking_at(file: OpenFile) -> Iterator[None]:
    """What needs our duplicate of it; of a running task it is given back then, and what it closed meanwhile is left."""
    try:
        yield
    except ClosedMeanwhile:
        pass
    finally:
        if file.duplicate.take is not None:
            file.duplicate.close()


@contextmanager
def open_files(pid: int, reader: ProcReader, pidfd: int, *, runs: bool = False) -> Iterator[tuple[OpenFile, ...]]:
    """All descriptors of `pid`, ascending, with our duplicates; those are closed at the end.

    A descriptor that goes away while we look is left out. Needs room for as many descriptors here as the task has,
    unless it runs: then duplicates are held for one look at a time, but for those of character devices (terminals).
    """
    files: list[OpenFile] = []
    try:
        for fd in sorted(reader.fds(pid)):
            file = read_open_file(pid, fd, reader, pidfd)
            if file is None:
                continue
            files.append(file)
            if runs and not stat.S_ISCHR(file.stat.st_mode):
                file.duplicate.take = partial(_take_again, file, pidfd)
                file.duplicate.close()
        yield tuple(files)
    finally:
        for file in files:
            file.duplicate.close()


def _take_again(file: OpenFile, pidfd: int) -> int:
    closed = f"{file.subject}: was closed while it was looked at"
    try:
        local_fd = pidfd_getfd(pidfd, file.fd)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.ESRCH):
            raise ClosedMeanwhile(closed) from error
        raise
    found = os.fstat(local_fd)
    # eventfds, timerfds and their like have one inode.
    is_other_kind = file.link.startswith("anon_inode:") and os.readlink(f"/proc/self/fd/{local_fd}") != file.link
    if is_other_kind or (found.st_dev, found.st_ino) != (file.stat.st_dev, file.stat.st_ino):
        os.close(local_fd)
        raise ClosedMeanwhile(closed)
    return local_fd


def read_open_file(pid: int, fd: int, reader: ProcReader, pidfd: int) -> OpenFile | None:
    """One descriptor; None when the task closed it meanwhile. The caller closes `local_fd`."""
    try:
        local_fd = pidfd_getfd(pidfd, fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            return None
        raise
    try:
        return _describe(pid, fd, reader, local_fd)
    except FileNotFoundError:
        os.close(local_fd)
        return None
    except BaseException:
        os.close(local_fd)
        raise


def _describe(pid: int, fd: int, reader: ProcReader, local_fd: int) -> OpenFile:
    link = reader.fd_link(pid, fd)
    info = _settled_timer(pid, fd, reader, local_fd) if link == TIMERFD_LINK else reader.fdinfo(pid, fd)
    found = os.fstat(local_fd)
    return OpenFile(
        pid=pid, fd=fd, cloexec=bool(info.flags & os.O_CLOEXEC), link=link, stat=found, info=info,
        duplicate=Duplicate(local_fd),
        socket=_socket_type(local_fd) if link.startswith("socket:") else None,
        path_is_same=link.startswith("/") and leads_to(f"{reader.path(pid, 'root')}{link}", found),
        is_message_queue=not info.flags & os.O_PATH and is_message_queue(local_fd, found),
    )  # fmt: skip


def read_in_flight(pid: int, local_fd: int, carrier: str, reader: ProcReader) -> OpenFile:
    """A file that waits in a queue of task `pid`: our descriptor of it is all there is. The caller closes it."""
    found = _describe(os.getpid(), local_fd, reader, local_fd)
    return replace(found, pid=pid, fd=-1, cloexec=False, carrier=carrier)


def _settled_timer(pid: int, fd: int, reader: ProcReader, local_fd: int) -> FdInfo:
    """For some microseconds an armed one looks as if it were disarmed with its period kept: it is due, and the kernel
    has not counted it yet."""
    for look in range(TIMER_LOOKS):
        _settle_timer(local_fd)
        info = reader.fdinfo(pid, fd)
        timer = info.timerfd
        if timer is None or timer.it_value_ns or timer.ticks or not timer.it_interval_ns:
            break
        time.sleep(TIMER_DUE_S * 2**look)  # the processor that counts it may be busy, or not run at all for a moment
    return info


def _settle_timer(local_fd: int) -> None:
    """A periodic timerfd that fired stands still until somebody asks; then it counts what it missed and goes on."""
    spec = bytearray(32)
    syscall("timerfd_gettime", local_fd, address_of(spec))


def _socket_type(local_fd: int) -> SocketType:
    live = socket.socket(fileno=local_fd)
    try:
        return SocketType(
            live.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN),
            live.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
            live.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL),
        )
    finally:
        live.detach()


def leads_to(path: str, wanted: os.stat_result) -> bool:
    """Whether this very file has that name."""
    try:
        return os.path.samestat(os.lstat(path), wanted)
    except OSError:
        return False


def file_of_sight(pid: int, fd: int, sight: Sight, pidfd: int, taken: list[Duplicate] | None = None) -> OpenFile:
    """One descriptor by its record, which tells all; a duplicate of ours is only taken when somebody asks for it, and
    then added to `taken`."""
    head, info = sight.head, parse_fdinfo(sight.info)
    duplicate, found = Duplicate(-1, taken=taken), sight.stat
    kind = SocketType(head.domain, head.type, head.protocol) if sight.link.startswith("socket:") else None
    is_same = (head.path_device, head.path_inode) == (head.device, head.inode)
    cloexec = bool(info.flags & os.O_CLOEXEC)
    file = OpenFile(pid, fd, cloexec, sight.link, found, info, duplicate, kind, is_same, sight=sight)
    duplicate.take = partial(_take_again, file, pidfd)
    return file


def may_tell_all(sight: Sight) -> bool:
    """What no record tells of any kind: locks, descriptors in flight, who gets signals, what O_PATH leads to."""
    info = sight.info
    told = not sight.head.owner_pid and "lock:" not in info and ("scm_fds:" not in info or "scm_fds: 0\n" in info)
    return told and not parse_fdinfo(info).flags & os.O_PATH


@contextmanager
def live_socket(file: OpenFile) -> Iterator[socket.socket | Asked]:
    """What can be asked as a socket: its record, or our duplicate."""
    if file.sight is not None:
        yield file.sight.asked(LOOKED_AT)
        return
    with borrowed_socket(file.local_fd) as live:
        yield live


def read_owner(file: OpenFile) -> FownEntry:
    """Who gets SIGIO, by the number the tree has for it; all zero when nobody. Source: fcntl(2), F_SETOWN."""
    nobody = FownEntry(uid=0, euid=0, signum=0, pid_type=0, pid=0)
    pid_type, pid = _owner(file)
    if pid == 0:
        return nobody
    uid, euid = struct.unpack("II", fcntl.fcntl(file.local_fd, F_GETOWNER_UIDS, bytes(8)))
    signum = fcntl.fcntl(file.local_fd, fcntl.F_GETSIG)
    return FownEntry(uid=uid, euid=euid, signum=signum, pid_type=pid_type, pid=ProcReader().status(pid).ns_pid[-1])


def _owner(file: OpenFile) -> tuple[int, int]:
    """Type and number, as we see it; 0 when nobody."""
    if file.sight is not None or file.flags & os.O_PATH:
        return 0, 0
    pid_type, pid = struct.unpack("ii", fcntl.fcntl(file.local_fd, F_GETOWN_EX, bytes(8)))
    return pid_type, pid


def has_owner(file: OpenFile) -> bool:
    """Somebody gets its signals."""
    return _owner(file)[1] != 0


def owner_is_foreign(file: OpenFile, table: OpenTable) -> bool:
    """True when SIGIO goes to others than tasks whose descriptors are in `table`: a thread, a group, outsiders."""
    pid_type, pid = _owner(file)
    return pid != 0 and (pid_type > F_OWNER_PID or main_thread(pid, ProcReader()) not in table.pids)


def owner_and_flags_ops(fd: int, flags: int, owner: FownEntry, made_with: int, why: str) -> Program:
    """Ops that give `fd` its SIGIO owner (a task of the tree) and those status flags it was not made with."""
    ops: list[Syscall] = []
    if owner.pid:
        wanted = struct.pack("iI", owner.pid_type, owner.pid)
        ops.append(Syscall("fcntl", (fd, F_SETOWN_EX, wanted), f"{why}: owner"))
        if owner.signum:
            ops.append(Syscall("fcntl", (fd, fcntl.F_SETSIG, owner.signum), f"{why}: signal"))
    if (flags ^ made_with) & SETTABLE:
        ops.append(Syscall("fcntl", (fd, fcntl.F_SETFL, flags & SETTABLE), f"{why}: flags"))
    return tuple(ops)
