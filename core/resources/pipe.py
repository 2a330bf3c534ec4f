"""Pipes with what is in them, when the other end is in the same task or nowhere.

Content is copied by tee(2) into a pipe of our own, so nothing is consumed. Named pipes are not carried.
"""

import os
import select
from collections.abc import Mapping, Sequence
from typing import Final

from core.errors import Blocker, CollectError
from core.images.pb.descriptors_pb2 import PipeDataEntry, PipeEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.descriptors import Sight
from core.kernel.pipe_content import copy_waiting, polls
from core.plan.ops import FdAllocator, Out, Program, Syscall, path_argument
from core.plan.pipe_ops import PipeContent, plan_content
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

AT_FDCWD: Final = -100


def claims(file: OpenFile) -> bool:
    """By its link: named pipes have a path there."""
    return file.link.startswith("pipe:")


def is_told(sight: Sight) -> bool:
    """The record tells all of one that is empty; who has its other ends, the table."""
    return sight.link.startswith("pipe:") and not sight.head.waiting and sight.head.capacity > 0


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """An end that another process holds."""
    access = table.access.get(file.link, 0)
    return None if access & access - 1 or table.unseen else _refuse_lonely(file)  # ends of two kinds are here


def _refuse_lonely(file: OpenFile) -> Blocker | None:
    """An end whose other end is open, but not here."""
    if not reads(file) and not polls(file.local_fd, select.POLLERR):
        return file.blocker("pipe-shared", "another process reads this pipe", "start it with output to a file")
    if not writes(file) and not polls(file.local_fd, select.POLLHUP):
        return file.blocker("pipe-shared", "another process writes into this pipe", "start it with input from a file")
    return None


def reads(file: OpenFile) -> bool:
    """True for an end to read from."""
    return file.flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR)


def writes(file: OpenFile) -> bool:
    """True for an end to write to."""
    return file.flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """One open end; the ends of a pipe share `pipe_id`."""
    entry = PipeEntry(
        id=id, pipe_id=pipe_id(file), flags=file.flags, fown=read_owner(file),
        uid=file.stat.st_uid, gid=file.stat.st_gid,
    )  # fmt: skip
    return FileEntry(type=FdTypes.PIPE, id=id, pipe=entry)


def pipe_id(file: OpenFile) -> int:
    """The number that all ends of a pipe share."""
    return file.stat.st_ino & 0xFFFFFFFF


def collect_content(file: OpenFile) -> PipeContent:
    """What is in the pipe, by one of its reading ends; nothing is taken out."""
    if file.sight is not None:  # it is empty
        return PipeContent(PipeDataEntry(pipe_id=pipe_id(file), bytes=0, size=file.sight.head.capacity), b"")
    try:
        waiting = copy_waiting(file.local_fd)
    except OSError as error:
        raise CollectError(file.subject, f"cannot read contents: {error.strerror}") from error
    payload = b"".join(waiting.pieces)
    entry = PipeDataEntry(pipe_id=pipe_id(file), bytes=len(payload), size=waiting.size)
    if len(waiting.pieces) > 1:
        entry.packets.extend(map(len, waiting.pieces))
    return PipeContent(entry, payload)


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """One end of an empty pipe, the other end closed."""
    program, made = plan_pipe([entry], None, fds, {entry.id: why})
    return program, made[entry.id]


def plan_pipe(
    entries: Sequence[FileEntry], content: PipeContent | None, fds: FdAllocator, why: Mapping[int, str]
) -> tuple[Program, dict[int, int]]:
    """A pipe with all its open ends: ops, and the number that each entry (by id) gets.

    Two ends come from pipe2(2); further ones, opened separately, by opening those again through /proc.
    """
    pipe_why = why[entries[0].id]
    reading, writing = fds.take(), fds.take()
    ops: list[Syscall] = [Syscall("pipe2", (Out(8), 0), pipe_why)]
    owner = entries[0].pipe
    if owner.uid or owner.gid:
        ops.append(Syscall("fchown", (writing, owner.uid, owner.gid), f"{pipe_why}: owner"))
    ops += plan_content(writing, 0, content, pipe_why)
    made: dict[int, int] = {}
    free = {os.O_RDONLY: reading, os.O_WRONLY: writing}
    for entry in entries:
        access = entry.pipe.flags & os.O_ACCMODE
        fd = free.pop(access, None)
        made_with = 0
        if fd is None:
            fd = fds.take()
            made_with = entry.pipe.flags & (os.O_NONBLOCK | os.O_DIRECT)
            again = path_argument(f"/proc/self/fd/{writing if access == os.O_WRONLY else reading}")
            ops.append(Syscall("openat", (AT_FDCWD, again, access | made_with, 0), f"{why[entry.id]}: again"))
        made[entry.id] = fd
        ops += owner_and_flags_ops(fd, entry.pipe.flags, entry.pipe.fown, made_with, why[entry.id])
    for fd in free.values():
        ops.append(Syscall("close", (fd,), f"{pipe_why}: the end that is gone"))
        fds.release(fd)
    return tuple(ops), made
