"""inotify(7): watches by path, in their numbers. Events that nobody has read arrive as IN_Q_OVERFLOW: look anew.

Events cannot be looked at without taking them, so what they were stays unknown.
"""

import fcntl
import os
import re
import struct
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from core.errors import Blocker, CollectError
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.images.pb.fsnotify_pb2 import FhEntry, InotifyFileEntry, InotifyWdEntry
from core.kernel.file_handle import path_of_handle
from core.plan.ops import FdAllocator, Out, Program, Result, Syscall, path_argument
from core.proc.mountinfo import parse_mountinfo
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

LINK: Final = "anon_inode:inotify"
LARGEST_WATCH: Final = 30_000  # every number that is left out costs two system calls
LARGEST_QUEUE: Final = 65_536  # and so does every event of a queue that has to flow over
EVENT_BYTES: Final = 16
READ_BYTES: Final = 65_536
QUEUE_LIMIT: Final = Path("/proc/sys/fs/inotify/max_queued_events")
IN_DELETE_SELF: Final = 0x400
PLACEHOLDERS: Final = ("/proc", "/sys", "/dev", "/etc", "/usr")
_WATCH: Final = re.compile(
    r"inotify wd:([0-9a-f]+) ino:([0-9a-f]+) sdev:([0-9a-f]+) mask:([0-9a-f]+) ignored_mask:([0-9a-f]+)"
    r"(?: fhandle-bytes:([0-9a-f]+) fhandle-type:([0-9a-f]+) f_handle:([0-9a-f]*))?"
)


@dataclass(frozen=True, slots=True)
class Watch:
    """One line of fdinfo; `path` "" when nobody can tell where it is."""

    number: int
    inode: int
    device: int  # the kernel's own word: major << 20 | minor
    mask: int
    handle_type: int
    handle: bytes
    path: str


def claims(file: OpenFile) -> bool:
    """By its link."""
    return file.link == LINK


def watches(file: OpenFile) -> list[Watch]:
    """All of them, ascending."""
    mounts = parse_mountinfo(Path(f"/proc/{file.pid}/mountinfo").read_text())
    found = []
    for match in filter(None, map(_WATCH.match, file.info.lines)):
        number, inode, device, mask, _, _, kind, handle = match.groups()
        word, raw, handle_type = int(device, 16), bytes.fromhex(handle or ""), int(kind or "0", 16)
        path = path_of_handle(mounts, os.makedev(word >> 20, word & 0xFFFFF), handle_type, raw) if raw else None
        found.append(Watch(int(number, 16), int(inode, 16), word, int(mask, 16), handle_type, raw, path or ""))
    return sorted(found, key=lambda watch: watch.number)


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Watches whose files cannot be found again."""
    found = watches(file)
    for watch in found:
        if not watch.path:
            reason = f"watch {watch.number} is on inode {watch.inode}, whose path cannot be found"
            return file.blocker("inotify-path", reason, "it is deleted, or its file system has no file handles")
    if found and found[-1].number > LARGEST_WATCH:
        reason = f"its watches are numbered up to {found[-1].number}, which cannot be reached again"
        return file.blocker("inotify-number", reason, "restart the program")
    return None


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Its watches, and whether events wait."""
    entry = InotifyFileEntry(id=id, flags=file.flags, fown=read_owner(file))
    for watch in watches(file):
        if not watch.path:
            raise CollectError(file.subject, f"watch {watch.number}: its path is gone")
        handle = FhEntry(bytes=len(watch.handle), type=watch.handle_type, path=watch.path)
        padded = watch.handle + bytes(-len(watch.handle) % 8)
        handle.handle.extend(struct.unpack(f"<{len(padded) // 8}Q", padded))
        entry.wd.append(
            InotifyWdEntry(
                id=id, i_ino=watch.inode, mask=watch.mask, ignored_mask=0, s_dev=watch.device, wd=watch.number,
                f_handle=handle,
            )
        )  # fmt: skip
    entry.unread = bool(struct.unpack("i", fcntl.ioctl(file.local_fd, termios.FIONREAD, bytes(4)))[0])
    return FileEntry(type=FdTypes.INOTIFY, id=id, ify=entry)


def verify(entry: InotifyFileEntry, subject: str, root: str = "/") -> Blocker | None:
    """What is watched has to be here."""
    for watch in entry.wd:
        path = watch.f_handle.path
        if not path or not os.path.lexists(root.rstrip("/") + path):
            return Blocker("file-missing", subject, f"{path or 'a watched file'}: no such file", "copy it")
    if entry.unread and _queue_limit() > LARGEST_QUEUE:
        reason = f"has unread events, and fs.inotify.max_queued_events is {_queue_limit()} here"
        return Blocker("inotify-unread", subject, reason, f"set it to {LARGEST_QUEUE} or less")
    return None


def _queue_limit() -> int:
    return int(QUEUE_LIMIT.read_text())


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """Without its watches, which would tell of how the other files are made."""
    return (Syscall("inotify_init1", (os.O_NONBLOCK,), why),), fds.take()


def plan_late(entry: FileEntry, fd: int, why: str) -> Program:
    """Watches get ascending numbers and none twice: those left out are taken by one that goes at once."""
    inotify = entry.ify
    taken = {watch.f_handle.path for watch in inotify.wd}
    placeholder = path_argument(next(path for path in PLACEHOLDERS if path not in taken))
    ops: list[Syscall] = []
    number = 1
    for watch in sorted(inotify.wd, key=lambda one: one.wd):
        ops += _skip(fd, watch.wd - number, placeholder, why)
        number = watch.wd + 1
        path = path_argument(watch.f_handle.path)
        ops.append(Syscall("inotify_add_watch", (fd, path, watch.mask), f"{why}: watch {watch.f_handle.path}"))
    if inotify.unread:
        ops += _overflow(fd, placeholder, why)
    return (*ops, *owner_and_flags_ops(fd, inotify.flags, inotify.fown, os.O_NONBLOCK, why))


def _skip(fd: int, count: int, placeholder: bytes, why: str) -> list[Syscall]:
    """Use up watch numbers, and take away the events (IN_IGNORED) that this makes."""
    ops = _add_and_remove(fd, count, placeholder, why)
    reads = -(-count * EVENT_BYTES // READ_BYTES)
    return ops + [Syscall("read", (fd, Out(READ_BYTES), READ_BYTES), why, may_fail=True) for _ in range(reads)]


def _overflow(fd: int, placeholder: bytes, why: str) -> list[Syscall]:
    """Fill the queue until it flows over, then take away all that was before that."""
    limit = _queue_limit()
    ops = _add_and_remove(fd, limit + 1, placeholder, why)
    whole, rest = divmod(limit * EVENT_BYTES, READ_BYTES)
    sizes = [READ_BYTES] * whole + [rest] * bool(rest)
    return ops + [Syscall("read", (fd, Out(size), size), f"{why}: unread events", may_fail=True) for size in sizes]


def _add_and_remove(fd: int, count: int, placeholder: bytes, why: str) -> list[Syscall]:
    ops = []
    for _ in range(count):
        added = Syscall("inotify_add_watch", (fd, placeholder, IN_DELETE_SELF), f"{why}: a number left out")
        ops += [added, Syscall("inotify_rm_watch", (fd, Result(added)), f"{why}: a number left out")]
    return ops
