"""Named pipes with what is in them, also those whose name is gone. All ends of one are made together, in one task.

The descriptor's path, flags and owner are a file's (the `regf_id` of its entry), the content is a pipe's.
"""

import os
import select
import stat
from collections.abc import Mapping, Sequence
from typing import Final

from core.errors import Blocker, CollectError
from core.images.pb.descriptors_pb2 import FifoEntry, PipeDataEntry, RegFileEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.pipe_content import copy_waiting, polls
from core.plan.ghost_names import DELETED, last_name
from core.plan.ops import FdAllocator, Program, Syscall, path_argument
from core.plan.pipe_ops import PipeContent, plan_content
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

AT_FDCWD: Final = -100


def claims(file: OpenFile) -> bool:
    """A FIFO with a path, or with one that it had."""
    return stat.S_ISFIFO(file.stat.st_mode) and file.link.startswith("/") and not file.flags & os.O_PATH


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Renamed over, or read by others. Other writers are preflight's: the kernel does not tell them from none yet."""
    if file.stat.st_nlink and not file.path_is_same:
        return file.blocker("path", "its path leads to another file, or to none", "put the named pipe back")
    if not table.unseen and _is_read_elsewhere(file, table):
        return file.blocker("fifo-shared", "another process reads this named pipe", "stop that one")
    return None


def _is_read_elsewhere(file: OpenFile, table: OpenTable) -> bool:
    ends = [other for other in table.files if pipe_id(other) == pipe_id(file) and claims(other)]
    return not any(map(reads, ends)) and not polls(file.local_fd, select.POLLERR)


def reads(file: OpenFile) -> bool:
    """True for an end to read from."""
    return file.flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR)


def _writes(file: OpenFile) -> bool:
    return file.flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)


def pipe_id(file: OpenFile) -> int:
    """The number that all ends share."""
    return (file.stat.st_ino ^ file.stat.st_dev << 16) & 0xFFFFFFFF


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """One open end; `regf_id` is the caller's to give (collect_path)."""
    entry = FifoEntry(id=id, pipe_id=pipe_id(file))
    ends = [other for other in table.files if claims(other) and pipe_id(other) == pipe_id(file)]
    if not any(map(_writes, ends)) and not polls(file.local_fd, select.POLLHUP | select.POLLIN):
        entry.waits = True
    return FileEntry(type=FdTypes.FIFO, id=id, fifo=entry)


def collect_path(file: OpenFile, id: int) -> FileEntry:
    """Its path, flags and owner, under a number of their own."""
    path = file.link if file.stat.st_nlink else last_name(file.link)
    reg = RegFileEntry(
        id=id, flags=file.flags, pos=0, fown=read_owner(file), name=path, mnt_id=-1, mode=file.stat.st_mode
    )  # fmt: skip
    return FileEntry(type=FdTypes.REG, id=id, reg=reg)


def is_nameless(file: OpenFile) -> bool:
    """Its name is gone."""
    return not file.stat.st_nlink and file.link.endswith(DELETED)


def collect_content(file: OpenFile) -> PipeContent:
    """What is in it, by one of its reading ends; nothing is taken out."""
    try:
        waiting = copy_waiting(file.local_fd)
    except OSError as error:
        raise CollectError(file.subject, f"cannot read contents: {error.strerror}") from error
    payload = b"".join(waiting.pieces)
    entry = PipeDataEntry(pipe_id=pipe_id(file), bytes=len(payload), size=waiting.size)
    if len(waiting.pieces) > 1:
        entry.packets.extend(map(len, waiting.pieces))
    return PipeContent(entry, payload)


def plan_fifo(
    entries: Sequence[FileEntry],
    paths: Mapping[int, RegFileEntry],
    content: PipeContent | None,
    fds: FdAllocator,
    why: Mapping[int, str],
) -> tuple[Program, dict[int, int]]:
    """All ends (`paths`: by their regf_id): ops, and the number that each entry (by id) gets.

    A helper end for both directions keeps the others from waiting for each other, and holds the content meanwhile.
    """
    ops: list[Syscall] = []
    made: dict[int, int] = {}
    for entry in entries:
        if entry.fifo.waits:
            made[entry.id] = fds.take()
            ops += _open(entry, paths[entry.fifo.regf_id], made[entry.id], why[entry.id])
    if len(made) == len(entries):
        return tuple(ops), made
    path, helper_why = paths[entries[0].fifo.regf_id].name, why[entries[0].id]
    helper = fds.take()
    ops.append(Syscall("openat", (AT_FDCWD, path_argument(path), os.O_RDWR, 0), f"{helper_why}: both ends"))
    ops += plan_content(helper, os.O_RDWR, content, helper_why)
    for entry in entries:
        if entry.id not in made:
            made[entry.id] = fds.take()
            ops += _open(entry, paths[entry.fifo.regf_id], made[entry.id], why[entry.id])
    ops.append(Syscall("close", (helper,), f"{helper_why}: both ends"))
    fds.release(helper)
    return tuple(ops), made


def _open(entry: FileEntry, reg: RegFileEntry, fd: int, why: str) -> Program:
    access = reg.flags & os.O_ACCMODE
    opened = Syscall("openat", (AT_FDCWD, path_argument(reg.name), access | os.O_NONBLOCK, 0), why)
    return (opened, *owner_and_flags_ops(fd, reg.flags, reg.fown, os.O_NONBLOCK, why))
