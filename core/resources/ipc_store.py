"""Makes the System V semaphores and message queues of a tree that is restored; what is in them its root puts there."""

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from core.errors import Refused, RestoreError
from core.images import kinds
from core.images.pb.namespaces_pb2 import IpcDescEntry
from core.images.store import ImageSet
from core.kernel.calls import address_of, syscall
from core.plan.segments import has_own_ipc, ipc_namespace
from core.proc.reader import ProcReader
from core.proc.sysvipc import NAMES, SysvNeed, refuse_taken

IPC_CREAT, IPC_EXCL, IPC_RMID, IPC_SET, IPC_STAT = 0o1000, 0o2000, 0, 1, 2
STATUS: Final = 128  # bytes, of struct msqid64_ds and semid64_ds at least
OWNER, MODE, QBYTES = slice(4, 12), slice(20, 22), slice(88, 96)
PERMISSIONS: Final = 0o777


@dataclass(frozen=True, slots=True)
class _Made:
    """One of ours: `call` controls it, `qbytes` is a queue's limit."""

    call: str
    desc: IpcDescEntry
    qbytes: int = 0


class IpcStore:
    """Those of one restore. Whoever fails calls abandon()."""

    def __init__(self) -> None:
        self._made: list[_Made] = []
        self._own_ipc = False  # they are in an IPC namespace of the tree's, and go with it

    def make(self, images: ImageSet) -> None:
        """All of them, empty. Refused when a key or an id is taken here."""
        namespace, self._own_ipc = ipc_namespace(images), has_own_ipc(images)
        sets, queues = (images.all(kind, namespace) for kind in (kinds.IPCNS_SEM, kinds.IPCNS_MSG))
        reader = ProcReader()
        taken = [refuse_taken(SysvNeed(one.desc.key, one.desc.id, "sem"), reader.semaphore_sets()) for one in sets]
        taken += [refuse_taken(SysvNeed(one.desc.key, one.desc.id, "msg"), reader.message_queues()) for one in queues]
        if blockers := [found for found in taken if found is not None]:
            raise Refused(blockers)
        for one in sets:
            self._make("sem", _Made("semctl", one.desc), one.nsems)
        for record in images.records(kinds.IPCNS_MSG, namespace):
            made = _Made("msgctl", record.message.desc, record.message.qbytes)
            self._make("msg", made)
            _settle(made, max(made.qbytes, len(record.payload)))

    def _make(self, kind: str, made: _Made, *count: int) -> None:
        desc = made.desc
        try:
            _choose_next_id(kind, desc.id)
            try:
                flags = IPC_CREAT | IPC_EXCL | desc.mode & PERMISSIONS
                id = syscall(f"{kind}get", desc.key, *count, flags)
            except OSError:
                _choose_next_id(kind, -1)
                raise
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise RestoreError(f"System V {NAMES[kind]} {desc.id}: cannot be made: {reason}") from error
        if id != desc.id:
            syscall(made.call, id, *_padded(made, IPC_RMID))
            raise RestoreError(f"System V {NAMES[kind]} {desc.id}: the id is taken")
        self._made.append(made)

    def settle(self) -> None:
        """They hold what they have to: owners, modes, limits."""
        for made in self._made:
            _settle(made, made.qbytes)

    def abandon(self) -> None:
        """The restore failed: none stays. Idempotent."""
        while self._made:
            made = self._made.pop()
            if self._own_ipc:
                continue
            with suppress(OSError):  # somebody was faster
                syscall(made.call, made.desc.id, *_padded(made, IPC_RMID))


def _padded(made: _Made, *args: int) -> tuple[int, ...]:
    """semctl(2) has the number of a semaphore in between."""
    return (0, *args) if made.call == "semctl" else args


def _settle(made: _Made, qbytes: int) -> None:
    desc, status = made.desc, bytearray(STATUS)
    try:
        syscall(made.call, desc.id, *_padded(made, IPC_STAT, address_of(status)))
        status[OWNER] = desc.uid.to_bytes(4, "little") + desc.gid.to_bytes(4, "little")
        status[MODE] = (desc.mode & PERMISSIONS).to_bytes(2, "little")
        if made.call == "msgctl":
            status[QBYTES] = qbytes.to_bytes(8, "little")
        syscall(made.call, desc.id, *_padded(made, IPC_SET, address_of(status)))
    except OSError as error:
        hint = f"sysctl kernel.msgmnb={qbytes} here" if qbytes else None
        reason = f"{made.call} {desc.id}: owner, mode, limit of {qbytes} bytes: {os.strerror(error.errno or 0)}"
        raise RestoreError(reason, hint=hint) from error


def _choose_next_id(kind: str, id: int) -> None:
    """Of the next one that anybody makes; -1: as the kernel likes."""
    with open(f"/proc/sys/kernel/{kind}_next_id", "w", encoding="ascii") as file:
        file.write(str(id))
