"""fanotify(7): groups that are told of events, with their marks by path. Those that decide (permission) are refused."""

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
from core.images.pb.fsnotify_pb2 import (
    INODE,
    MOUNT,
    FanotifyFileEntry,
    FanotifyInodeMarkEntry,
    FanotifyMarkEntry,
    FanotifyMountMarkEntry,
    FhEntry,
)
from core.kernel.file_handle import path_of_handle
from core.plan.ops import FdAllocator, Program, Syscall, path_argument
from core.proc.mountinfo import Mount, parse_mountinfo
from core.resources.context import OpenFile, OpenTable, owner_and_flags_ops, read_owner

LINK: Final = "anon_inode:[fanotify]"
AT_FDCWD: Final = -100
UNREAD: Final = "has events that the program has not read yet, and nobody else can without taking them"
UNREAD_HINT: Final = "let it read them, and try again"
DECIDING: Final = 0xC  # FAN_CLASS_CONTENT, FAN_CLASS_PRE_CONTENT
FAN_MARK_ADD, FAN_MARK_MOUNT, FAN_MARK_IGNORED_MASK, FAN_MARK_FILESYSTEM = 0x1, 0x10, 0x20, 0x100
_GROUP: Final = re.compile(r"fanotify flags:([0-9a-f]+) event-flags:([0-9a-f]+)")
_MARK: Final = re.compile(
    r"fanotify (?:mnt_id:(?P<mount>[0-9a-f]+)|(?:ino:(?P<inode>[0-9a-f]+) )?sdev:(?P<device>[0-9a-f]+))"
    r" mflags:(?P<flags>[0-9a-f]+) mask:(?P<mask>[0-9a-f]+) ignored_mask:(?P<ignored>[0-9a-f]+)"
    r"(?: fhandle-bytes:[0-9a-f]+ fhandle-type:(?P<kind>[0-9a-f]+) f_handle:(?P<handle>[0-9a-f]*))?"
)


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of fdinfo; `path` "" when nobody can tell where it is."""

    type: int  # 0, FAN_MARK_MOUNT or FAN_MARK_FILESYSTEM
    number: int  # of the inode or the mount
    device: int  # the kernel's own word: major << 20 | minor
    flags: int
    mask: int
    ignored: int
    handle_type: int
    handle: bytes
    path: str


def claims(file: OpenFile) -> bool:
    """By its link."""
    return file.link == LINK


def marks(file: OpenFile) -> list[Mark]:
    """All of them."""
    mounts = parse_mountinfo(Path(f"/proc/{file.pid}/mountinfo").read_text())
    return [_mark(match, mounts) for match in filter(None, map(_MARK.match, file.info.lines))]


def _mark(match: re.Match[str], mounts: tuple[Mount, ...]) -> Mark:
    word = int(match["device"] or "0", 16)
    device = word >> 20, word & 0xFFFFF
    kind, handle = int(match["kind"] or "0", 16), bytes.fromhex(match["handle"] or "")
    if match["mount"]:
        type, number = FAN_MARK_MOUNT, int(match["mount"], 16)
        path = next((mount.mount_point for mount in mounts if mount.mount_id == number), "")
    elif match["inode"]:
        type, number = 0, int(match["inode"], 16)
        path = path_of_handle(mounts, os.makedev(*device), kind, handle) or "" if handle else ""
    else:
        type, number = FAN_MARK_FILESYSTEM, 0
        path = next((mount.mount_point for mount in mounts if mount.device == device), "")
    flags, mask, ignored = (int(match[name], 16) for name in ("flags", "mask", "ignored"))
    return Mark(type, number, word, flags, mask, ignored, kind, handle, path)


def _group(file: OpenFile) -> tuple[int, int]:
    """Flags of fanotify_init(2): of the group, and of the descriptors that its events bring."""
    match = next(filter(None, map(_GROUP.match, file.info.lines)), None)
    if match is None:
        raise CollectError(file.subject, "its fdinfo does not tell how it was made")
    return int(match[1], 16), int(match[2], 16)


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Who decides upon others' accesses, marks that cannot be found again, events that nobody has read."""
    if _group(file)[0] & DECIDING:
        return file.blocker(
            "fanotify-class", "decides upon accesses (permission events)", "stop it before the migration"
        )
    for mark in marks(file):
        if not mark.path:
            reason = f"has a mark on inode or mount {mark.number}, whose path cannot be found"
            return file.blocker("fanotify-path", reason, "it is deleted, or its file system has no file handles")
    if _has_unread(file):
        return file.blocker("fanotify-unread", UNREAD, UNREAD_HINT)
    return None


def _has_unread(file: OpenFile) -> bool:
    return bool(struct.unpack("i", fcntl.ioctl(file.local_fd, termios.FIONREAD, bytes(4)))[0])


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """Group and marks; CollectError when events wait, which cannot be looked at without taking them."""
    if _has_unread(file):
        raise CollectError(file.subject, UNREAD, hint=UNREAD_HINT)
    flags, event_flags = _group(file)
    entry = FanotifyFileEntry(id=id, flags=file.flags, fown=read_owner(file), faflags=flags, evflags=event_flags)
    entry.mark.extend(_entry(mark, id) for mark in marks(file))
    return FileEntry(type=FdTypes.FANOTIFY, id=id, ffy=entry)


def _entry(mark: Mark, id: int) -> FanotifyMarkEntry:
    entry = FanotifyMarkEntry(
        id=id, type=MOUNT if mark.type else INODE, mflags=mark.flags, mask=mark.mask, ignored_mask=mark.ignored,
        s_dev=mark.device,
    )  # fmt: skip
    if mark.type:
        entry.me.CopyFrom(FanotifyMountMarkEntry(mnt_id=mark.number, path=mark.path))
        entry.filesystem = mark.type == FAN_MARK_FILESYSTEM
        return entry
    padded = mark.handle + bytes(-len(mark.handle) % 8)
    handle = FhEntry(bytes=len(mark.handle), type=mark.handle_type, path=mark.path)
    handle.handle.extend(struct.unpack(f"<{len(padded) // 8}Q", padded))
    entry.ie.CopyFrom(FanotifyInodeMarkEntry(i_ino=mark.number, f_handle=handle))
    return entry


def _path(mark: FanotifyMarkEntry) -> str:
    return mark.me.path if mark.type == MOUNT else mark.ie.f_handle.path


def verify(entry: FanotifyFileEntry, subject: str, root: str = "/") -> Blocker | None:
    """What is marked has to be here."""
    for mark in entry.mark:
        if not _path(mark) or not os.path.lexists(root.rstrip("/") + _path(mark)):
            return Blocker("file-missing", subject, f"{_path(mark) or 'a marked file'}: no such file", "copy it")
    return None


def plan(entry: FileEntry, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """Without its marks, which would tell of how the other files are made."""
    group = entry.ffy
    return (Syscall("fanotify_init", (group.faflags, group.evflags), why),), fds.take()


def plan_late(entry: FileEntry, fd: int, why: str) -> Program:
    """The marks, when all files are there."""
    group = entry.ffy
    ops: list[Syscall] = []
    for mark in group.mark:
        type = 0 if mark.type == INODE else FAN_MARK_FILESYSTEM if mark.filesystem else FAN_MARK_MOUNT
        place = (AT_FDCWD, path_argument(_path(mark)))
        where = f"{why}: mark {_path(mark)}"
        if mark.mask:
            ops.append(Syscall("fanotify_mark", (fd, FAN_MARK_ADD | type, mark.mask, *place), where))
        if mark.ignored_mask:
            flags = FAN_MARK_ADD | type | FAN_MARK_IGNORED_MASK | mark.mflags
            ops.append(Syscall("fanotify_mark", (fd, flags, mark.ignored_mask, *place), where))
    return (*ops, *owner_and_flags_ops(fd, group.flags, group.fown, 0, why))
