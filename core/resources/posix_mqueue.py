"""POSIX message queues that a task has open: name, limits, unread messages, access and flags of each open file.

Making them anew is posix_mqueue_store, which has them there by name before any task opens one.
"""

import os
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fcntl import F_SETFD
from typing import Final

from core.errors import Blocker, CollectError, ImageError
from core.images import kinds
from core.images.pb.descriptors_pb2 import MqueueEntry, MqueueFileEntry, MqueueMessage
from core.images.pb.files_pb2 import FdinfoEntry, FdTypes, FileEntry
from core.images.store import ImageSet
from core.kernel.posix_mqueue import (
    QueueNeed,
    Status,
    copy_messages,
    describe,
    names,
    open_queue,
    opened_again,
    read_attributes,
    read_status,
    remove_queue,
)
from core.plan.ghost_names import last_name
from core.plan.ops import FdAllocator, Program, Syscall, path_argument
from core.resources.context import OpenFile, OpenTable, looking_at, owner_and_flags_ops, read_owner

SIGEV_SIGNAL, SIGEV_NONE = 0, 1
SIGEVENT: Final = bytes(12) + SIGEV_NONE.to_bytes(4, "little") + bytes(48)
NOTIFY_HINT: Final = "have it take that back (mq_notify with NULL) before the migration"
ACTED_ONCE: Final = os.O_CREAT | os.O_EXCL | os.O_ASYNC


def claims(file: OpenFile) -> bool:
    """By the file system that it is on."""
    return file.is_message_queue


def name_of(file: OpenFile) -> str:
    """Without what the queues' file system is mounted as."""
    return (file.link if file.stat.st_nlink else last_name(file.link)).rpartition("/")[2]


def ending(file: OpenFile) -> str:
    """What the links of all ends with that may be of the same queue."""
    return "/" + file.link.rpartition("/")[2]


def queue_id(file: OpenFile) -> int:
    """The number that all who have it open share."""
    return file.stat.st_ino & 0xFFFFFFFF


def refuse(file: OpenFile, table: OpenTable) -> Blocker | None:
    """A name that is not UTF-8, one of another IPC namespace than this thread's, which is the tree's, and who is
    registered to be told of messages, but for a task of ours told nothing."""
    try:
        file.link.encode()
    except UnicodeEncodeError:
        return file.blocker("name", "its name is not UTF-8, which images cannot hold", "make a queue of another name")
    if file.stat.st_dev != table.queue_device:
        return file.blocker("mqueue", "the queue is of another IPC namespace", "close it before the migration")
    with opened_again(file.local_fd) as fd:
        status, messages = read_status(fd), read_attributes(fd).messages
    reason = _refuse_notification(status, messages, table)
    return file.blocker("mqueue-notify", reason, NOTIFY_HINT) if reason else None


def _refuse_notification(status: Status, messages: int, table: OpenTable) -> str:
    """Why nobody could register anew who is registered now; empty when somebody can, or nobody is. Pure."""
    if not status.pid:
        return ""
    who = f"process {status.pid} is registered to be told of a message (mq_notify)"
    if status.pid not in table.pids:
        return f"{who}, and does not move along"
    if status.notify == SIGEV_SIGNAL:
        name = signal.strsignal(status.signal) or status.signal
        return f"{who} by a signal ({name}), and the value that it was to come with cannot be read"
    if status.notify != SIGEV_NONE:
        return f"{who} by a thread (SIGEV_THREAD)"
    return f"{who}, and reading the messages that wait already would use that up" if messages else ""


def needs(files: Sequence[OpenFile]) -> tuple[QueueNeed, ...]:
    """What has to be free over there for those among `files`."""
    found: dict[int, QueueNeed] = {}
    for file in files:
        if claims(file) and queue_id(file) not in found:
            with looking_at(file):
                _, most, size, _ = read_attributes(file.local_fd)
                found[queue_id(file)] = QueueNeed(name_of(file), most, size, not file.stat.st_nlink)
    return tuple(found.values())


def collect(file: OpenFile, id: int, table: OpenTable) -> FileEntry:
    """One open file: which queue, access and flags."""
    entry = MqueueFileEntry(id=id, flags=file.flags, fown=read_owner(file), queue_id=queue_id(file))
    return FileEntry(type=FdTypes.MQUEUEFD, id=id, mqueue=entry)


def collect_queues(files: Sequence[OpenFile], own_pids: Mapping[int, int]) -> Iterator[MqueueEntry]:
    """Each queue among the files of a frozen tree once, with what is in it, which stays there."""
    seen = set()
    for file in files:
        if claims(file) and queue_id(file) not in seen:
            seen.add(queue_id(file))
            try:
                with opened_again(file.local_fd) as fd:
                    yield _collect_queue(name_of(file), fd, own_pids)
            except OSError as error:
                raise CollectError(file.subject, f"cannot read the messages: {error.strerror}") from error


def collect_unopened(images: ImageSet) -> None:
    """Those of this thread's IPC namespace, which is the tree's, that no task has open."""
    known = {queue.id for queue in images.all(kinds.MQUEUE)}
    for name in names():
        try:
            fd = open_queue(name)
            try:
                if os.fstat(fd).st_ino & 0xFFFFFFFF not in known:
                    images.add(kinds.MQUEUE, _collect_queue(name, fd, {}))
            finally:
                os.close(fd)
        except (OSError, UnicodeEncodeError) as error:
            raise CollectError(describe(name), f"cannot be read: {error}") from error


def _collect_queue(name: str, fd: int, own_pids: Mapping[int, int]) -> MqueueEntry:
    found, attributes, status = os.fstat(fd), read_attributes(fd), read_status(fd)
    entry = MqueueEntry(
        id=found.st_ino & 0xFFFFFFFF, name=name, unlinked=not found.st_nlink, max_messages=attributes.max_messages,
        message_size=attributes.message_size, uid=found.st_uid, gid=found.st_gid, mode=found.st_mode,
    )  # fmt: skip
    if status.pid:
        entry.notified = own_pids[status.pid]
    entry.messages.extend(MqueueMessage(priority=one.priority, text=one.text) for one in copy_messages(fd))
    return entry


def plan(entry: FileEntry, name: str, fds: FdAllocator, why: str) -> tuple[Program, int]:
    """Open the queue, which is there by this name."""
    file = entry.mqueue
    fd, flags = fds.take(), file.flags & ~ACTED_ONCE
    opened = Syscall("mq_open", (path_argument(name), flags, 0, 0), why)
    inherited = Syscall("fcntl", (fd, F_SETFD, 0), f"{why}: not close-on-exec")  # which mq_open(2) sets
    return (opened, inherited, *owner_and_flags_ops(fd, file.flags, file.fown, flags, why)), fd


def plan_notify(
    queues: Iterable[MqueueEntry], files: Mapping[int, FileEntry], infos: Sequence[FdinfoEntry], own_pid: int
) -> Program:
    """Ops by which task `own_pid`, which has the descriptors `infos` of `files`, is registered; when it closes no queue
    any more: to close one takes that back."""
    ops = []
    for queue in queues:
        if queue.HasField("notified") and queue.notified == own_pid:
            fds = [info.fd for info in infos if files[info.id].mqueue.queue_id == queue.id]
            if not fds:
                raise ImageError(kinds.MQUEUE.file_name(), f"queue {queue.id}: task {own_pid} does not have it open")
            ops.append(Syscall("mq_notify", (fds[0], SIGEVENT), f"fd {fds[0]}: notification"))
    return tuple(ops)


def remove_moved(images: ImageSet) -> None:
    """The tree is gone from here, and so are the queues that it had open."""
    for queue in images.all(kinds.MQUEUE):
        if not queue.unlinked:
            try:
                remove_queue(queue.name, queue.id)
            except OSError as error:
                raise CollectError(describe(queue.name), f"cannot be removed: {error.strerror}") from error
