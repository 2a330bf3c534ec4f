"""Pipes with what is in them, when the other end is in the same task or nowhere.

Content is copied by tee(2) into a pipe of our own, so nothing is consumed. Named pipes are not carried.
"""

import fcntl
import os
import select
import struct
import termios
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import Blocker, CollectError
from core.images.pb.descriptors_pb2 import PipeDataEntry, PipeEntry
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.kernel.calls import syscall
from core.plan.ops import FdAllocator, Out, Program, Syscall, path_argument
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

AT_FDCWD: Final = -100
SPLICE_F_NONBLOCK: Final = 2
DEFAULT_SIZE: Final = 65536
WRITE_SIZE: Final = 65536


@dataclass(frozen=True, slots=True)
class PipeContent:
    """What a pipe holds and how much it can hold."""

    entry: PipeDataEntry
    payload: bytes


def claims(file: OpenFile) -> bool:
    """By its link: named pipes have a path there."""
    return file.link.startswith("pipe:")


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """An end that another process holds, and packets, whose borders images cannot hold."""
    if not table.unseen and (refused := _refuse_lonely(file, table)) is not None:
        return refused
    if file.flags & os.O_DIRECT and waiting_bytes(file.local_fd):
        return file.blocker("pipe-packets", "packets wait in this pipe (O_DIRECT)")
    return None


def _refuse_lonely(file: OpenFile, table: OpenTable) -> Blocker | None:
    """An end whose other end is open, but not here."""
    ends = [other for other in table.files if other.link == file.link]
    if not any(map(reads, ends)) and not _polls(file.local_fd, select.POLLERR):
        return file.blocker("pipe-shared", "another process reads this pipe", "start it with output to a file")
    if not any(map(writes, ends)) and not _polls(file.local_fd, select.POLLHUP):
        return file.blocker("pipe-shared", "another process writes into this pipe", "start it with input from a file")
    return None


def reads(file: OpenFile) -> bool:
    """True for an end to read from."""
    return file.flags & os.O_ACCMODE in (os.O_RDONLY, os.O_RDWR)


def writes(file: OpenFile) -> bool:
    """True for an end to write to."""
    return file.flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR)


def waiting_bytes(fd: int) -> int:
    """How many bytes wait to be read."""
    (count,) = struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))
    return int(count)


def _polls(fd: int, event: int) -> bool:
    """True when the other end of the pipe is gone: POLLHUP for a reader, POLLERR for a writer."""
    poller = select.poll()
    poller.register(fd, 0)
    return any(events & event for _, events in poller.poll(0))


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
    size = fcntl.fcntl(file.local_fd, fcntl.F_GETPIPE_SZ)
    waiting = waiting_bytes(file.local_fd)
    payload = _copy(file, size) if waiting else b""
    if len(payload) != waiting:
        raise CollectError(file.subject, f"{waiting} bytes wait in the pipe, {len(payload)} could be copied")
    return PipeContent(PipeDataEntry(pipe_id=pipe_id(file), bytes=waiting, size=size), payload)


def _copy(file: OpenFile, size: int) -> bytes:
    """tee(2) shares page by page, so a pipe of the same size takes everything at once."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, size)
        copied = syscall("tee", file.local_fd, writing, size, SPLICE_F_NONBLOCK)
        parts = []
        while copied:
            parts.append(os.read(reading, copied))
            copied -= len(parts[-1])
        return b"".join(parts)
    except OSError as error:
        raise CollectError(file.subject, f"cannot read contents: {error.strerror}") from error
    finally:
        os.close(reading)
        os.close(writing)


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
    ops += _content_ops(writing, entries[0].pipe, content, pipe_why)
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


def _content_ops(writing: int, pipe: PipeEntry, content: PipeContent | None, why: str) -> Program:
    """Owner, size and content, while the ends still block and both exist."""
    ops: list[Syscall] = []
    if pipe.uid or pipe.gid:
        ops.append(Syscall("fchown", (writing, pipe.uid, pipe.gid), f"{why}: owner"))
    if content is None:
        return tuple(ops)
    if content.entry.size and content.entry.size != DEFAULT_SIZE:
        ops.append(Syscall("fcntl", (writing, fcntl.F_SETPIPE_SZ, content.entry.size), f"{why}: size"))
    for start in range(0, len(content.payload), WRITE_SIZE):
        chunk = content.payload[start : start + WRITE_SIZE]
        ops.append(Syscall("write", (writing, chunk, len(chunk)), f"{why}: contents"))
    return tuple(ops)
