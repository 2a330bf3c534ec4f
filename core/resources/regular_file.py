"""Files and directories opened by a path, and the memory devices /dev/null, zero, full, random and urandom.

Owns reopening by path with position and flags. Must not carry content: over there the path must lead to the same.
"""

import os
import stat
from typing import Final

from core.errors import Blocker
from core.images.pb.descriptors_pb2 import FownEntry, RegFileEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.descriptors import Sight
from core.plan.ghost_names import DELETED, last_name
from core.plan.ops import FdAllocator, Program, Syscall, path_argument
from core.proc.process_files import Whose, numbers_itself_so, whose
from core.resources.context import (
    O_LARGEFILE,
    OpenFile,
    OpenTable,
    has_owner,
    owner_and_flags_ops,
    read_owner,
)

AT_FDCWD: Final = -100
MESSAGE_QUEUES: Final = 0x19800202  # their file system, by statfs(2)
# They acted when the file was first opened, or are the descriptor's, or go by fcntl afterwards.
NOT_REPLAYED: Final = (
    os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY | os.O_CLOEXEC | os.O_ASYNC | O_LARGEFILE
)  # fmt: skip
TMPFILE_ALONE: Final = os.O_TMPFILE & ~os.O_DIRECTORY
MEMORY_MAJOR: Final = 1
MEMORY_MINORS: Final = {3: "null", 5: "zero", 7: "full", 8: "random", 9: "urandom"}


def claims(file: OpenFile) -> bool:
    """A path, and behind it something that opening the path again gives back."""
    mode = file.stat.st_mode
    by_path = stat.S_ISREG(mode) or stat.S_ISDIR(mode) or bool(file.flags & os.O_PATH) or is_memory_device(file.stat)
    return file.link.startswith("/") and not file.link.startswith("/memfd:") and by_path


def is_memory_device(found: os.stat_result) -> bool:
    """One of the devices that hold nothing."""
    is_memory = stat.S_ISCHR(found.st_mode) and os.major(found.st_rdev) == MEMORY_MAJOR
    return is_memory and os.minor(found.st_rdev) in MEMORY_MINORS


def is_told(sight: Sight) -> bool:
    """The record tells all of what its path leads to."""
    head = sight.head
    kept = stat.S_ISREG(head.mode) or stat.S_ISDIR(head.mode) or is_memory_device(sight.stat)
    by_path = (head.path_device, head.path_inode) == (head.device, head.inode) and head.links > 0
    is_file = kept and by_path and head.filesystem != MESSAGE_QUEUES and sight.link.isprintable()
    by_name = sight.link.startswith("/") and not sight.link.startswith("/memfd:")
    return is_file and by_name and whose(sight.link) is None


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Replaced or hidden files, what /proc shows of processes that do not move along, and directories of dnotify: the
    kernel tells nobody for what, but F_NOTIFY makes the process their owner, and nothing else has a use for one."""
    if stat.S_ISDIR(file.stat.st_mode) and has_owner(file):
        reason = "a directory that is watched by fcntl(F_NOTIFY), or was: nobody can tell for what"
        return file.blocker("dnotify", reason, "let the program use inotify, or close it before the migration")
    if (shows := whose(file.link)) is not None:
        return _refuse_shown(file, shows, table)
    if is_nameless(file):
        return _refuse_nameless(file, table)
    if not file.path_is_same and other_name(file) is None and not table.options.files.link_remap:
        reason = "this name of the file is gone, and its others are not in the same directory"
        return file.blocker("path", reason, "--link-remap gives it one beside it, or put it back in its place")
    return _refuse_name(file)


def _refuse_shown(file: OpenFile, shows: Whose, table: OpenTable) -> Blocker | None:
    """It is opened anew by its path, when all processes are there and have only their first thread."""
    is_there = not file.link.endswith(DELETED) and numbers_itself_so(shows.pid, file.pid)
    ours = is_there and (not table.own_pids or shows.pid in table.own_pids)
    if not ours:
        return file.blocker("proc", f"shows process {shows.pid}, which does not move along", "close it")
    if shows.is_of_thread:
        reason = f"shows thread {shows.tid}, which is not there yet when files are opened"
        return file.blocker("proc", reason, "close it")
    return None


def is_nameless(file: OpenFile) -> bool:
    """A regular file or a directory that is deleted."""
    kept = stat.S_ISREG(file.stat.st_mode) or stat.S_ISDIR(file.stat.st_mode)
    return kept and not file.stat.st_nlink and file.link.endswith(DELETED)


def is_misnamed(file: OpenFile) -> bool:
    """It has a name, but not the one that it was opened by."""
    by_path = stat.S_ISREG(file.stat.st_mode) and file.link.startswith("/")
    return by_path and bool(file.stat.st_nlink) and not file.path_is_same


def other_name(file: OpenFile) -> str | None:
    """Another name of it in the directory where it had the lost one; None when there is none."""
    root = f"/proc/{file.pid}/root"
    folder = last_name(file.link).rpartition("/")[0]
    try:
        with os.scandir(f"{root}{folder}") as entries:
            names = [entry.name for entry in entries if entry.inode() == file.stat.st_ino]
    except OSError:
        return None
    for path in (f"{folder}/{name}" for name in names):
        found = os.lstat(root + path)
        if (found.st_dev, found.st_ino) == (file.stat.st_dev, file.stat.st_ino):
            return path
    return None


def _refuse_nameless(file: OpenFile, table: OpenTable) -> Blocker | None:
    limit = table.options.files.ghost_limit
    if limit is not None and file.stat.st_size > limit:
        reason = f"the file is deleted and has {file.stat.st_size} bytes, more than --ghost-limit {limit}"
        return file.blocker("deleted", reason, "give a higher --ghost-limit, or none")
    return _refuse_name(file)


def _refuse_name(file: OpenFile) -> Blocker | None:
    try:
        file.link.encode()
    except UnicodeEncodeError:
        return file.blocker("name", "its path is not UTF-8, which images cannot hold", "rename the file")
    return None


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Path, position, flags."""
    path = last_name(file.link) if is_nameless(file) else file.link
    if is_misnamed(file):
        path = other_name(file) or last_name(file.link)
    entry = reg_file_entry(id, path, file.flags, file.stat, file.info.pos, read_owner(file))
    return FileEntry(type=FdTypes.REG, id=id, reg=entry)


def reg_file_entry(
    id: int, path: str, flags: int, found: os.stat_result, pos: int = 0, owner: FownEntry | None = None
) -> RegFileEntry:
    """The image of a file by path, also for those that are only mapped, executed or a working directory."""
    nobody = FownEntry(uid=0, euid=0, signum=0, pid_type=0, pid=0)
    entry = RegFileEntry(
        id=id, flags=flags, pos=pos, fown=owner or nobody, name=path, mnt_id=-1, mode=found.st_mode
    )  # fmt: skip
    if stat.S_ISREG(found.st_mode):
        entry.size = found.st_size
    return entry


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """Open the path, go to the position; see plan_late."""
    file = entry.reg
    fd = fds.take()
    ops = [open_op(file, why)]
    if file.flags & os.O_PATH:
        return tuple(ops), fd
    if whose(file.name) is None:
        ops += _position_ops(file, fd, why)
    return (*ops, *owner_and_flags_ops(fd, file.flags, file.fown, file.flags & ~os.O_ASYNC, why)), fd


def plan_late(entry: FileEntry, fd: int, why: str) -> Program:
    """The position in a file of /proc: the kernel writes down then what is read from there."""
    return _position_ops(entry.reg, fd, why) if whose(entry.reg.name) is not None else ()


def _position_ops(file: RegFileEntry, fd: int, why: str) -> Program:
    is_read = file.pos and not file.flags & os.O_PATH
    return (Syscall("lseek", (fd, file.pos, os.SEEK_SET), f"{why}: position"),) if is_read else ()


def open_op(file: RegFileEntry, why: str) -> Syscall:
    """openat(2) of the file as it was opened, without what would create or empty it."""
    flags = file.flags & ~NOT_REPLAYED
    if flags & TMPFILE_ALONE:  # it was made without a name; here it has one for a moment
        flags &= ~os.O_TMPFILE
    if stat.S_ISLNK(file.mode):
        flags |= os.O_NOFOLLOW
    return Syscall("openat", (AT_FDCWD, path_argument(file.name), flags | os.O_NOCTTY, 0), why)


def verify(file: RegFileEntry, subject: str, root: str = "/", name: str | None = None) -> Blocker | None:
    """Why the file below `root` (by `name` if given) is not the one in the image: absent, of another type or size.

    Asked on the destination before anything is made there. Size decides because nothing else of content is in an image.
    """
    path, host = "" if f"({file.name})" in subject else f"{file.name} ", os.uname().nodename
    try:
        found = os.lstat(f"{root.rstrip('/')}{name or file.name}")
    except OSError as error:
        reason = f"{path}cannot be found on {host}: {error.strerror}"
        return Blocker("file-missing", subject, reason, "copy it, or mount its file system")
    if file.HasField("mode") and stat.S_IFMT(file.mode) != stat.S_IFMT(found.st_mode):
        return Blocker("file-differs", subject, f"{path}is of another type on {host}", "put the same file there")
    if file.HasField("size") and file.size != found.st_size and stat.S_ISREG(found.st_mode):
        reason = f"{path}has {found.st_size} bytes on {host}, and had {file.size} when the process was frozen"
        return Blocker("file-differs", subject, reason, "copy it, or share its file system")
    return None
