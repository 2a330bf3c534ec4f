"""Terminals: pairs of pseudo-terminals inside of the tree, with all that is set and waits in them, and slaves that are
hung up. One outside of the tree, of a shell's job (`-j`): the copy gets that of whoever restores it, set as it was.
"""

import fcntl
import os
import select
import stat
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from core.errors import Blocker, CollectError, Refused
from core.ids.shared import KCMP_FILE
from core.images.pb.descriptors_pb2 import RegFileEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.tty_pb2 import (
    PTY,
    TermiosEntry,
    TtyDataEntry,
    TtyFileEntry,
    TtyInfoEntry,
    TtyPtyEntry,
    WinsizeEntry,
)
from core.kernel import pty
from core.kernel.calls import kcmp
from core.kernel.pty_content import PtyContent, copy_content, is_stopped
from core.plan.ops import FdAllocator, Program, Result, Syscall, path_argument
from core.plan.terminals import HUNG_UP, OUTSIDE, master_id, settings_of, slave_id
from core.proc.reader import ProcReader
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

AT_FDCWD: Final = -100
TERMINAL_MAJORS: Final = frozenset([4, 5, *range(136, 144)])
MASTER: Final = os.makedev(5, 2)
OWN: Final = os.makedev(5, 0)
OPENING: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC
PATH_HINT: Final = "--tty PATH gives it a terminal that is there"
ATTACHED_HINT: Final = "detach from it first, e.g. tmux detach-client"
HINT: Final = "--tty new gives it one over there; or start it without: setsid PROGRAM </dev/null >log 2>&1"


def claims(file: OpenFile) -> bool:
    """By its device number."""
    is_terminal = stat.S_ISCHR(file.stat.st_mode) and os.major(file.stat.st_rdev) in TERMINAL_MAJORS
    return is_terminal and not file.flags & os.O_PATH


def is_master(file: OpenFile) -> bool:
    """The end that a terminal emulator has."""
    return file.stat.st_rdev == MASTER and stat.S_ISCHR(file.stat.st_mode)


def _is_slave(file: OpenFile) -> bool:
    return file.stat.st_rdev == OWN or os.major(file.stat.st_rdev) == pty.SLAVE_MAJOR


def is_hung_up(file: OpenFile) -> bool:
    """A slave whose master is gone."""
    return _is_slave(file) and pty.is_hung_up(file.local_fd)


def number_of(file: OpenFile) -> int | None:
    """N of its /dev/pts/N, for both ends; None for hung up ones and for terminals of other kinds."""
    return None if is_hung_up(file) else pty.read_number(file.local_fd)


def slave_path(file: OpenFile) -> str:
    """Where the slave of a master is, as its holder sees it."""
    folder = os.path.dirname(file.link)
    return f"{folder if folder.endswith('/pts') else folder + '/pts'}/{pty.read_number(file.local_fd)}"


def is_end_of(master: OpenFile, pid: int, fd: int, link: str, found: os.stat_result, reader: ProcReader) -> bool:
    """Of another process's descriptor: it is the master itself, which nobody gets who opens its path, or its slave.
    OSError."""
    if link == master.link:
        return kcmp(master.pid, pid, KCMP_FILE, master.fd, fd) == 0
    try:
        slave = os.stat(f"{reader.path(master.pid, 'root')}{slave_path(master)}")
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (slave.st_dev, slave.st_ino)


def number_of_device(device: int) -> int | None:
    """N of the /dev/pts/N that tty_nr of /proc/PID/stat names; None for other terminals and none at all."""
    return os.minor(device) if os.major(device) == pty.SLAVE_MAJOR else None


def numbers(files: Sequence[OpenFile]) -> set[int]:
    """N of every /dev/pts/N whose master is among `files`."""
    found = {number_of(file) for file in files if claims(file) and is_master(file)}
    return {number for number in found if number is not None}


def _master_of(file: OpenFile, files: Sequence[OpenFile]) -> OpenFile | None:
    number = number_of(file)
    masters = (one for one in files if claims(one) and is_master(one))
    return next((one for one in masters if number is not None and number_of(one) == number), None)


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """One outside of the tree, but for that of a shell's job that is dumped as one; one whose output stands still."""
    if is_hung_up(file) or is_master(file):
        return None
    master = _master_of(file, table.files)
    if master is None:
        is_attached = any(claims(one) and is_master(one) for one in table.files)
        hint = ATTACHED_HINT if is_attached else HINT
        return _refuse_outside(file, table, hint)
    if is_stopped(master.local_fd, file.local_fd):
        return file.blocker("terminal-stopped", "its output is stopped (Ctrl-S, tcflow)", "press Ctrl-Q in it")
    return None


def _refuse_outside(file: OpenFile, table: OpenTable, hint: str) -> Blocker | None:
    choice = table.options.files.terminal
    if choice == "refuse":
        return file.blocker("terminal", "a terminal cannot be carried", hint)
    if choice == "new" and number_of(file) is None:
        return file.blocker("terminal", "is no pseudo-terminal: no new one can stand in for it", PATH_HINT)
    if choice == "new" and len({number_of(one) for one in table.files if _is_outside(one, table)}) > 1:
        return file.blocker(
            "terminal", "is one of several terminals outside: one new one can stand in for one", PATH_HINT
        )
    return None


def _is_outside(file: OpenFile, table: OpenTable) -> bool:
    is_slave = claims(file) and not is_master(file) and not is_hung_up(file)
    return is_slave and _master_of(file, table.files) is None


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Its flags; `regf_id` and what it leads to are the caller's to add."""
    entry = TtyFileEntry(id=id, tty_info_id=_info_id(file), flags=file.flags, fown=read_owner(file))
    return FileEntry(type=FdTypes.TTY, id=id, tty=entry)


def _info_id(file: OpenFile) -> int:
    if is_hung_up(file):
        return HUNG_UP
    number = number_of(file)
    if number is None:
        return OUTSIDE | file.stat.st_rdev << 1
    return master_id(number) if is_master(file) else slave_id(number)


def collect_path(file: OpenFile, id: int) -> FileEntry:
    """Its path, under a number of its own."""
    reg = RegFileEntry(
        id=id, flags=file.flags, pos=0, fown=read_owner(file), name=file.link, mnt_id=-1, mode=file.stat.st_mode
    )  # fmt: skip
    return FileEntry(type=FdTypes.REG, id=id, reg=reg)


def collect_terminals(files: Sequence[OpenFile]) -> Iterator[tuple[TtyInfoEntry, TtyDataEntry | None]]:
    """Everything about the terminals behind the files of a frozen tree, each once, and what waits to be read there."""
    ours = {_info_id(file): file for file in files if claims(file)}
    for id, file in ours.items():
        if is_master(file):
            yield from _collect_pair(file, ours.get(id ^ 1), [one for one in files if claims(one)])
        elif id == HUNG_UP:
            yield _info(id, file.stat.st_rdev), None
        elif (id | 1) not in ours:
            yield _collect_outside(file, id), None


def _info(id: int, device: int) -> TtyInfoEntry:
    return TtyInfoEntry(
        id=id, type=PTY, locked=False, exclusive=False, packet_mode=False, sid=0, pgrp=0, rdev=device
    )  # fmt: skip


def _collect_outside(file: OpenFile, id: int) -> TtyInfoEntry:
    """Group and session stay behind."""
    entry = _info(id, file.stat.st_rdev)
    entry.termios.CopyFrom(_termios(pty.read_settings(file.local_fd)))
    return entry


def _collect_pair(
    master: OpenFile, slave: OpenFile | None, ends: Sequence[OpenFile]
) -> Iterator[tuple[TtyInfoEntry, TtyDataEntry | None]]:
    fd = master.local_fd
    first, second = (collect_end(fd, is_master=one) for one in (True, False))
    first.other_closed = bool(pty.ready(fd, 0) & select.POLLHUP)
    if slave is None and not first.other_closed:  # nobody has opened it yet, and that cannot be undone
        yield first, None
        yield second, None
        return
    with ExitStack() as stack:
        opened = stack.enter_context(pty.opened_slave(fd))
        found = os.fstat(opened)
        second.exclusive = bool(pty.read_switch(opened, pty.TIOCGEXCL))
        second.uid, second.gid, second.mode = found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
        content = _collect_content(master, opened)
    output = TtyDataEntry(tty_id=first.id, data=content.output)
    lines = list(map(len, content.lines))
    typed = TtyDataEntry(tty_id=second.id, data=b"".join((*content.lines, content.rest)), lines=lines)
    yield first, output if output.data else None
    yield second, typed if typed.data or lines else None


def _collect_content(master: OpenFile, slave: int) -> PtyContent:
    if pty.ready(master.local_fd, select.POLLPRI) & select.POLLPRI:
        raise CollectError(master.subject, "a message of its packet mode waits to be read", hint="try again")
    try:
        return copy_content(master.local_fd, slave)
    except OSError as error:
        raise CollectError(master.subject, f"cannot read contents: {error}") from error


def collect_end(master: int, *, is_master: bool) -> TtyInfoEntry:
    """One end of a pair, by a descriptor of its master: what both ends tell alike, and what the master is set to."""
    number = pty.read_number(master) or 0
    if not is_master:
        entry = _info(slave_id(number), os.makedev(pty.SLAVE_MAJOR, number))
    else:
        entry = _info(master_id(number), MASTER)
        entry.packet_mode = bool(pty.read_switch(master, pty.TIOCGPKT))
        entry.exclusive = bool(pty.read_switch(master, pty.TIOCGEXCL))
    entry.locked = bool(pty.read_switch(master, pty.TIOCGPTLCK))
    entry.sid, entry.pgrp = map(own_number, pty.read_session(master))
    entry.termios.CopyFrom(_termios(pty.read_settings(master)))
    entry.termios_locked.CopyFrom(_termios(pty.read_locked(master)))
    entry.winsize.CopyFrom(_winsize(pty.read_window(master)))
    entry.pty.CopyFrom(TtyPtyEntry(index=number))
    return entry


def collect_outside_pair(slave: int, session: int, group: int) -> tuple[TtyInfoEntry, TtyInfoEntry]:
    """Master and slave of a pair that is to stand in for a pseudo-terminal outside of the tree, by a descriptor of that
    one. `session`: who will lead it (0: nobody), `group`: who reads from it, both as they see themselves."""
    found = os.fstat(slave)
    number = os.minor(found.st_rdev)
    master = _info(master_id(number), MASTER)
    master.sid, master.pgrp = session, group
    master.termios.CopyFrom(_termios(pty.read_settings(slave)))
    master.winsize.CopyFrom(_winsize(pty.read_window(slave)))
    master.pty.CopyFrom(TtyPtyEntry(index=number))
    end = _info(slave_id(number), found.st_rdev)
    end.uid, end.gid, end.mode = found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)
    return master, end


def _winsize(size: pty.WindowSize) -> WinsizeEntry:
    return WinsizeEntry(ws_row=size.rows, ws_col=size.columns, ws_xpixel=size.width, ws_ypixel=size.height)


def own_number(pid: int) -> int:
    """What a session or group that we see as `pid` is called inside; when its leader is gone the number is all there
    is."""
    try:
        return ProcReader().status(pid).ns_pid[-1] if pid else 0
    except ProcessLookupError:
        return pid


def _termios(settings: pty.Settings) -> TermiosEntry:
    return TermiosEntry(
        c_iflag=settings.iflag, c_oflag=settings.oflag, c_cflag=settings.cflag, c_lflag=settings.lflag,
        c_line=settings.line, c_ispeed=settings.ispeed, c_ospeed=settings.ospeed, c_cc=list(settings.characters),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Place:
    """Where a terminal is made: `handed` is the master's number in the task, if it is one of the tree; `is_own`: it is
    the controlling terminal of the task; `path` of the one that a shell's job gets."""

    handed: int | None
    is_own: bool
    path: str


def plan_terminal(
    entry: FileEntry, link: str, infos: Mapping[int, TtyInfoEntry], place: Place, fds: FdAllocator, why: str
) -> tuple[Program, dict[int, int]]:
    """Ops that open it; the number by the entry's id. `link`: its path at the source."""
    ops: list[Syscall]
    flags = entry.tty.flags & ~OPENING & ~os.O_ASYNC | os.O_NOCTTY
    if entry.tty.tty_info_id == HUNG_UP:
        ops, fd = _plan_hung_up(flags, fds, why)
    elif place.handed is None:
        ops, fd = _plan_outside(entry, infos, place.path, flags, fds, why)
    elif entry.tty.tty_info_id & 1:
        fd, flags = fds.take(), os.O_RDWR
        ops = [Syscall("fcntl", (place.handed, fcntl.F_DUPFD, 0), why)]
    elif place.is_own and link == "/dev/tty":
        fd = fds.take()
        ops = [Syscall("openat", (AT_FDCWD, path_argument(link), flags, 0), why)]
    else:
        fd = fds.take()
        ops = [Syscall("ioctl", (place.handed, pty.TIOCGPTPEER, flags), why)]
    return (*ops, *owner_and_flags_ops(fd, entry.tty.flags, entry.tty.fown, flags, why)), {entry.id: fd}


def _plan_hung_up(flags: int, fds: FdAllocator, why: str) -> tuple[list[Syscall], int]:
    """The slave of a pair whose master is closed at once."""
    master, fd = fds.take(), fds.take()
    made = os.O_RDWR | os.O_NOCTTY
    ops = [
        Syscall("openat", (AT_FDCWD, path_argument("/dev/ptmx"), made, 0), f"{why}: master"),
        Syscall("ioctl", (master, pty.TIOCSPTLCK, bytes(4)), f"{why}: unlock"),
        Syscall("ioctl", (master, pty.TIOCGPTPEER, flags), why),
        Syscall("close", (master,), f"{why}: hung up"),
    ]
    fds.release(master)
    return ops, fd


def _plan_outside(
    entry: FileEntry, infos: Mapping[int, TtyInfoEntry], path: str, flags: int, fds: FdAllocator, why: str
) -> tuple[list[Syscall], int]:
    """`path`, set as the old one was. Refused without: nobody offers a terminal."""
    if not path:
        hint = "restore it with -j from a terminal"
        raise Refused([Blocker("fd-terminal", why, "is the terminal of a shell's job", hint)])
    fd = fds.take()
    ops = [Syscall("openat", (AT_FDCWD, path_argument(path), flags, 0), f"{why}: {path}")]
    if (info := infos.get(entry.tty.tty_info_id)) is not None and info.HasField("termios"):
        settings = pty.packed(settings_of(info.termios))[: -2 * 4]  # of TCSETS, which knows no speeds
        ops.append(Syscall("ioctl", (fd, termios.TCSETS, settings), f"{why}: settings", may_fail=True))
    return ops, fd


def plan_controlling(path: str) -> Program:
    """Of a session's leader without a terminal: it gets that at `path`."""
    opened = Syscall("openat", (AT_FDCWD, path_argument(path), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, 0), path)
    taken = Syscall("ioctl", (Result(opened), termios.TIOCSCTTY, 0), f"{path}: controlling terminal")
    return opened, taken, Syscall("close", (Result(opened),), path)


def plan_foreground(masters: Mapping[int, TtyInfoEntry], pid: int) -> Program:
    """Of one that leads a session with a terminal: the group that reads from that, unless it has ended."""
    info = next((one for one in masters.values() if one.sid == pid), None)
    if info is None:
        return ()
    why = f"terminal {info.pty.index}"
    opened = Syscall("openat", (AT_FDCWD, path_argument("/dev/tty"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK, 0), why)
    group = info.pgrp.to_bytes(4, "little")
    return (
        opened,
        Syscall("ioctl", (Result(opened), termios.TIOCSPGRP, group), f"{why}: foreground group", may_fail=True),
        Syscall("close", (Result(opened),), why),
    )
