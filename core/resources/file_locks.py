"""Locks on files: POSIX locks belong to a task's descriptor table, flock(2), OFD locks and leases to an open file.

Taken again when every descriptor stands: closing any one of a file's drops the POSIX locks on it.
"""

import fcntl
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from core.errors import Blocker
from core.images.pb.filesystem_pb2 import FileLockEntry
from core.plan.ops import Program, Syscall
from core.proc.fdinfo import FileLock
from core.resources.context import OpenFile, OpenTable

FL_POSIX, FL_FLOCK, FL_OFDLCK, FL_LEASE = 1, 2, 4, 8  # as criu 3.17.1 numbers them
FLAGS: Final = {"POSIX": FL_POSIX, "FLOCK": FL_FLOCK, "LEASE": FL_LEASE, "OFDLCK": FL_OFDLCK}
TYPES: Final = {"READ": fcntl.F_RDLCK, "WRITE": fcntl.F_WRLCK, "UNLCK": fcntl.F_UNLCK}
F_OFD_SETLK: Final = 37
FLOCK: Final = struct.Struct("<hhxxxxqqixxxx")  # struct flock
FLOCK_CALLS: Final = {fcntl.F_RDLCK: fcntl.LOCK_SH, fcntl.F_WRLCK: fcntl.LOCK_EX}


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """Without consent, in flight, of a kind that is not known, or a lease that somebody wants broken."""
    if not file.info.locks:
        return None
    if not table.options.files.file_locks:
        names = ", ".join(sorted({lock.kind for lock in file.info.locks}))
        hint = "--file-locks carries it; nobody else may use the file meanwhile"
        return file.blocker("lock", f"holds a file lock ({names})", hint)
    if file.carrier:
        return file.blocker("lock", "holds a file lock while it is in flight", "receive it before the migration")
    for lock in file.info.locks:
        if lock.kind not in FLAGS or lock.access not in TYPES or lock.mode not in ("ADVISORY", "ACTIVE"):
            reason = f"holds a {lock.kind} in the state {lock.mode} {lock.access}"
            return file.blocker("lock", reason, "wait until it has been given up")
    return None


def collect(files: Iterable[tuple[OpenFile, int, int]]) -> list[FileLockEntry]:
    """Each lock once. `files`: every descriptor with the own pid of its task and the number of its open file."""
    found: dict[tuple[object, ...], FileLockEntry] = {}
    for file, own_pid, file_id in files:
        for lock in file.info.locks:
            owner = (own_pid, file.stat.st_dev, file.stat.st_ino) if lock.kind == "POSIX" else (file_id,)
            key = (*owner, lock.kind, lock.access, lock.start, lock.end)
            if key not in found or not _suits(found[key], file):
                found[key] = _entry(lock, own_pid, file.fd)
    return list(found.values())


def _suits(known: FileLockEntry, file: OpenFile) -> bool:
    """Whether the descriptor that is known for a POSIX lock is as good as this one, which may lie open otherwise."""
    access = file.flags & os.O_ACCMODE
    needed = os.O_WRONLY if known.type == fcntl.F_WRLCK else os.O_RDONLY
    return known.flag != FL_POSIX or access not in (needed, os.O_RDWR)


def _entry(lock: FileLock, own_pid: int, fd: int) -> FileLockEntry:
    length = 0 if lock.end is None else lock.end - lock.start + 1
    return FileLockEntry(
        flag=FLAGS[lock.kind], type=TYPES[lock.access], pid=own_pid, fd=fd, start=lock.start, len=length
    )


def plan(locks: Sequence[FileLockEntry], own_pid: int) -> Program:
    """Ops by which task `own_pid` takes its locks; somebody else's in the way is an error."""
    return tuple(_plan_one(lock) for lock in locks if lock.pid == own_pid)


def _plan_one(lock: FileLockEntry) -> Syscall:
    why = f"fd {lock.fd}: lock"
    if lock.flag & FL_FLOCK:
        return Syscall("flock", (lock.fd, FLOCK_CALLS.get(lock.type, fcntl.LOCK_SH) | fcntl.LOCK_NB), why)
    if lock.flag & FL_LEASE:
        return Syscall("fcntl", (lock.fd, fcntl.F_SETLEASE, lock.type), f"fd {lock.fd}: lease")
    command = F_OFD_SETLK if lock.flag & FL_OFDLCK else fcntl.F_SETLK
    wanted = FLOCK.pack(lock.type, os.SEEK_SET, lock.start, lock.len, 0)
    return Syscall("fcntl", (lock.fd, command, wanted), f"{why} from {lock.start}")
