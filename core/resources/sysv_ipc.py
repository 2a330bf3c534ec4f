"""System V semaphores and message queues that only the tree uses: found by who used them last, read without taking
anything out, filled by the root of the copy. Making them anew is ipc_store.

The kernel does not tell who has one: a queue or set that a process merely made goes unnoticed and stays behind.
"""

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from core.errors import Blocker, CollectError, ImageError
from core.images import kinds
from core.images.pb.namespaces_pb2 import IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry
from core.images.store import ImageSet
from core.kernel.calls import SYSCALLS, address_of, syscall
from core.plan.ops import Program, Syscall
from core.plan.segments import ipc_namespace
from core.proc.reader import ProcReader
from core.proc.sysvipc import SysvNeed, SysvQueue, SysvSet

IPC_RMID, IPC_STAT = 0, 2
IPC_NOWAIT, MSG_NOERROR, MSG_COPY = 0o4000, 0o10000, 0o40000
GETPID, GETALL, SETALL = 11, 13, 17
QUEUE_STATUS: Final = 128  # bytes, of struct msqid64_ds at least
QBYTES: Final = slice(88, 96)
TYPE: Final = 8  # bytes of a message before its text
MARK: Final = (1).to_bytes(TYPE, "little")  # a message without text
OF_SETS: Final = frozenset({SYSCALLS["semop"], SYSCALLS["semtimedop"]})
OF_QUEUES: Final = frozenset({SYSCALLS["msgsnd"], SYSCALLS["msgrcv"]})
SHARED_HINT: Final = "move all who use it as one tree, or end the others"


Waits = Callable[[], Iterable[tuple[int, int]]]  # system call and its first argument, of each thread of the tree


@dataclass(frozen=True, slots=True)
class Used:
    """What the tree was the last to use or waits for, and by whom else it was used."""

    sets: tuple[SysvSet, ...] = ()
    queues: tuple[SysvQueue, ...] = ()
    others: tuple[tuple[str, str, int], ...] = ()  # code of the refusal, name, PID


def find_used(
    pids: Collection[int],
    reader: ProcReader,
    sets_here: Sequence[SysvSet],
    adjusted: Collection[int],
    waits: Waits,
    *,
    own_ipc: bool,
) -> Used:
    """Of a tree of processes `pids`; all there are where this thread is in an IPC namespace that is the tree's.

    `sets_here`: all sets in this namespace; `adjusted`: ids of those that the tree has adjustments of (SEM_UNDO);
    `waits` is asked where some would not be the tree's otherwise.
    """
    if own_ipc:
        return Used(tuple(sets_here), reader.message_queues())
    mine = set(pids)
    queues = {one: {one.sender, one.receiver} - {0} for one in reader.message_queues()}
    sets = {one: set(_users(one)) - {0} | (mine if one.id in adjusted else set()) for one in sets_here}
    if not all(users & mine for users in (*queues.values(), *sets.values())):
        calls = set(waits())
        for queue, users in queues.items():
            users |= mine if any((number, queue.id) in calls for number in OF_QUEUES) else set()
        for one, users in sets.items():
            users |= mine if any((number, one.id) in calls for number in OF_SETS) else set()
    named = [("sysv-msg", describe_queue(one.id, one.key), users) for one, users in queues.items() if users & mine]
    named += [("sysv-sem", describe_set(one.id, one.key), users) for one, users in sets.items() if users & mine]
    return Used(
        tuple(one for one, users in sets.items() if users & mine),
        tuple(one for one, users in queues.items() if users & mine),
        tuple((code, name, pid) for code, name, users in named for pid in sorted(users - mine)),
    )


def describe_queue(id: int, key: int) -> str:
    """How messages name it."""
    return f"System V message queue {id} (key {key:#x})"


def describe_set(id: int, key: int) -> str:
    """How messages name it."""
    return f"System V semaphore set {id} (key {key:#x})"


def _users(one: SysvSet) -> Iterator[int]:
    """PIDs of who changed each of the semaphores last; 0 where nobody did, or we may not know."""
    for number in range(one.semaphores):
        try:
            yield syscall("semctl", one.id, number, GETPID, 0)
        except OSError:
            return


def _lives(pid: int, reader: ProcReader) -> bool:
    try:
        status = reader.status(pid)
        return status.state not in "ZX" or status.threads > 1
    except ProcessLookupError:
        return False


def refuse(used: Used, inside: Callable[[], Collection[int]], reader: ProcReader) -> list[Blocker]:
    """What others use too. `inside`: who is none; asked when there is somebody, who may have been born meanwhile."""
    mine = inside() if used.others else ()
    return [
        Blocker(code, name, f"process {pid} ({reader.comm(pid)}) uses it too", SHARED_HINT)
        for code, name, pid in used.others
        if pid not in mine and _lives(pid, reader)
    ]


def needs(used: Used) -> tuple[SysvNeed, ...]:
    """What has to be free over there."""
    sets = (SysvNeed(one.key, one.id, "sem") for one in used.sets)
    return (*sets, *(SysvNeed(one.key, one.id, "msg") for one in used.queues))


def collect(used: Used, images: ImageSet) -> None:
    """Everything in them, of a frozen tree; it stays where it is."""
    namespace = ipc_namespace(images)
    for one in used.sets:
        values = bytearray(-(-2 * one.semaphores // 8) * 8)
        _check(describe_set(one.id, one.key), "semctl", one.id, 0, GETALL, address_of(values))
        images.add(kinds.IPCNS_SEM, IpcSemEntry(desc=_desc(one), nsems=one.semaphores), namespace, bytes(values))
    for queue in used.queues:
        name = describe_queue(queue.id, queue.key)
        status = bytearray(QUEUE_STATUS)
        _check(name, "msgctl", queue.id, IPC_STAT, address_of(status))
        messages = [_copy(name, queue, index) for index in range(queue.messages)]
        entry = IpcMsgEntry(desc=_desc(queue), qbytes=int.from_bytes(status[QBYTES], "little"), qnum=len(messages))
        images.add(kinds.IPCNS_MSG, entry, namespace, b"".join(map(_packed, messages)))


def _check(name: str, call: str, *args: int) -> int:
    try:
        return syscall(call, *args)
    except OSError as error:
        raise CollectError(name, f"{call}: {os.strerror(error.errno or 0)}") from error


def _desc(one: SysvSet | SysvQueue) -> IpcDescEntry:
    return IpcDescEntry(
        key=one.key, uid=one.uid, gid=one.gid, cuid=one.cuid, cgid=one.cgid, mode=one.mode, id=one.id
    )  # fmt: skip


def _copy(name: str, queue: SysvQueue, index: int) -> bytes:
    """Type and text of a message, which stays in the queue."""
    found = bytearray(TYPE + queue.size)
    size = _check(
        name, "msgrcv", queue.id, address_of(found), queue.size, index, IPC_NOWAIT | MSG_NOERROR | MSG_COPY
    )  # fmt: skip
    return bytes(found[: TYPE + size])


def _packed(message: bytes) -> bytes:
    """As in CRIU's image: length of the head, head, text padded to 8 bytes."""
    text = message[TYPE:]
    head = IpcMsg(mtype=int.from_bytes(message[:TYPE], "little"), msize=len(text)).SerializeToString()
    return len(head).to_bytes(4, "little") + head + text + bytes(-len(text) % 8)


def messages_of(entry: IpcMsgEntry, payload: bytes) -> Iterator[bytes]:
    """Type and text of each, in their order; the store has checked that the payload holds them."""
    position = 0
    for _ in range(entry.qnum):
        size = int.from_bytes(payload[position : position + 4], "little")
        position += 4 + size
        head = IpcMsg.FromString(payload[position - size : position])
        text = payload[position : position + head.msize]
        if len(text) < head.msize or not 0 < head.mtype < 1 << 63:
            raise ImageError("ipcns-msg", f"queue {entry.desc.id}: a message is no message")
        position += head.msize + -head.msize % 8
        yield head.mtype.to_bytes(TYPE, "little") + text


def plan(images: ImageSet) -> Program:
    """For the root of the tree, which is then who used them last: the next move finds them by that."""
    ops = []
    for record in images.records(kinds.IPCNS_SEM, ipc_namespace(images)):
        desc = record.message.desc
        values = record.payload[: 2 * record.message.nsems]
        ops.append(Syscall("semctl", (desc.id, 0, SETALL, values), describe_set(desc.id, desc.key)))
    for queue in images.records(kinds.IPCNS_MSG, ipc_namespace(images)):
        id, why = queue.message.desc.id, describe_queue(queue.message.desc.id, queue.message.desc.key)
        messages = [*messages_of(queue.message, queue.payload)]
        ops += [
            Syscall("msgsnd", (id, message, len(message) - TYPE, IPC_NOWAIT), f"{why}: message")
            for message in messages or [MARK]
        ]
        if not messages:
            ops.append(Syscall("msgrcv", (id, bytes(TYPE), 0, 0, IPC_NOWAIT), f"{why}: who used it last"))
    return tuple(ops)


def remove_moved(images: ImageSet, reader: ProcReader) -> None:
    """The tree is gone from here, and so are those that it alone used."""
    sets = {one.id for one in reader.semaphore_sets()}
    queues = {one.id for one in reader.message_queues()}
    for entry in images.all(kinds.IPCNS_SEM, ipc_namespace(images)):
        if entry.desc.id in sets:
            _remove("semctl", entry.desc.id, 0, IPC_RMID, 0)
    for queue in images.all(kinds.IPCNS_MSG, ipc_namespace(images)):
        if queue.desc.id in queues:
            _remove("msgctl", queue.desc.id, IPC_RMID, 0)


def _remove(call: str, *args: int) -> None:
    try:
        syscall(call, *args)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EIDRM):  # somebody was faster
            raise
