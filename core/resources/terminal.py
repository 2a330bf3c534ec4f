"""A terminal outside of the tree, of a shell's job (`-j`): the copy gets that of whoever restores it, set as it was.

Terminals inside of the tree (both ends of a pty) are not carried.
"""

import errno
import fcntl
import os
import stat
import struct
import termios
from collections.abc import Mapping
from typing import Final

from core.errors import Blocker, CollectError, Refused
from core.images.pb.descriptors_pb2 import RegFileEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.tty_pb2 import PTY, TermiosEntry, TtyFileEntry, TtyInfoEntry
from core.plan.ops import FdAllocator, Program, Syscall, path_argument
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

AT_FDCWD: Final = -100
TERMINAL_MAJORS: Final = frozenset([4, 5, *range(136, 144)])
MASTER: Final = os.makedev(5, 2)
TERMIOS: Final = struct.Struct("<4IB19s")  # the kernel's: iflag, oflag, cflag, lflag, line, cc
HINT: Final = "start it with input and output redirected, e.g. setsid PROGRAM </dev/null >log 2>&1"


def claims(file: OpenFile) -> bool:
    """By its device number."""
    is_terminal = stat.S_ISCHR(file.stat.st_mode) and os.major(file.stat.st_rdev) in TERMINAL_MAJORS
    return is_terminal and not file.flags & os.O_PATH


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """All but the terminal of a shell's job that is dumped as one; of a pty whose other end is here, both."""
    if file.stat.st_rdev == MASTER:
        return file.blocker("terminal", "a pseudo-terminal cannot be carried", HINT)
    if not table.options.files.terminal:
        return file.blocker("terminal", "a terminal cannot be carried", HINT)
    if any(other.stat.st_rdev == MASTER for other in table.files if stat.S_ISCHR(other.stat.st_mode)):
        return file.blocker("terminal", "a terminal cannot be carried beside pseudo-terminals of its own", HINT)
    return None


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Its flags; `regf_id` and what it leads to are the caller's to add."""
    entry = TtyFileEntry(id=id, tty_info_id=file.stat.st_rdev, flags=file.flags, fown=read_owner(file))
    return FileEntry(type=FdTypes.TTY, id=id, tty=entry)


def collect_path(file: OpenFile, id: int) -> FileEntry:
    """Its path, under a number of its own."""
    reg = RegFileEntry(
        id=id, flags=file.flags, pos=0, fown=read_owner(file), name=file.link, mnt_id=-1, mode=file.stat.st_mode
    )  # fmt: skip
    return FileEntry(type=FdTypes.REG, id=id, reg=reg)


def collect_info(file: OpenFile) -> TtyInfoEntry:
    """The terminal behind it: how it is set. Group and session stay behind."""
    try:
        settings = fcntl.ioctl(file.local_fd, termios.TCGETS, bytes(TERMIOS.size))
    except OSError as error:
        if error.errno == errno.EIO:
            raise CollectError(file.subject, "its terminal is gone (hung up)", hint=HINT) from error
        raise
    iflag, oflag, cflag, lflag, line, characters = TERMIOS.unpack(settings)
    entry = TermiosEntry(
        c_iflag=iflag, c_oflag=oflag, c_cflag=cflag, c_lflag=lflag, c_line=line, c_ispeed=0, c_ospeed=0,
        c_cc=list(characters),
    )  # fmt: skip
    return TtyInfoEntry(
        id=file.stat.st_rdev, type=PTY, locked=False, exclusive=False, packet_mode=False, sid=0, pgrp=0,
        rdev=file.stat.st_rdev, termios=entry,
    )  # fmt: skip


def plan_terminal(
    entry: FileEntry, path: str, infos: Mapping[int, TtyInfoEntry], fds: FdAllocator, why: str
) -> tuple[Program, dict[int, int]]:
    """Open `path` and set it; the number by the entry's id. Refused without a path: nobody offers a terminal."""
    if not path:
        hint = "restore it with -j from a terminal"
        raise Refused([Blocker("fd-terminal", why, "is the terminal of a shell's job", hint)])
    fd = fds.take()
    flags = entry.tty.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC) | os.O_NOCTTY
    ops = [Syscall("openat", (AT_FDCWD, path_argument(path), flags & ~os.O_ASYNC, 0), f"{why}: {path}")]
    if (info := infos.get(entry.tty.tty_info_id)) is not None and info.HasField("termios"):
        ops.append(Syscall("ioctl", (fd, termios.TCSETS, _packed(info.termios)), f"{why}: settings", may_fail=True))
    made_with = flags & ~os.O_ASYNC
    return (*ops, *owner_and_flags_ops(fd, entry.tty.flags, entry.tty.fown, made_with, why)), {entry.id: fd}


def _packed(settings: TermiosEntry) -> bytes:
    characters = bytes(settings.c_cc[:19])
    return TERMIOS.pack(
        settings.c_iflag, settings.c_oflag, settings.c_cflag, settings.c_lflag, settings.c_line, characters
    )
