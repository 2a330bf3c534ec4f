"""POSIX message queues: made and opened by name, looked at by descriptor. Source: mq_overview(7).

Names here have no slash; the kernel keeps them flat, whatever mqueue file system shows them.
"""

import errno
import os
import re
import resource
import stat
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from core.errors import Blocker
from core.kernel.calls import address_of, syscall
from core.native._kernel import ffi, lib

MAGIC: Final = 0x19800202
STATFS_SIZE: Final = 120
ATTRIBUTES: Final = struct.Struct("<8q")  # struct mq_attr: flags, most messages, size of one, messages, 4 reserved
NAME_MAX: Final = 255
FSOPEN_CLOEXEC, FSCONFIG_CMD_CREATE, FSMOUNT_CLOEXEC = 1, 6, 1
PRIORITIES: Final = 32768
_STATUS: Final = re.compile(rb"QSIZE:(\d+)\s+NOTIFY:(\d+)\s+SIGNO:(\d+)\s+NOTIFY_PID:(\d+)")


class Attributes(NamedTuple):
    """mq_getattr(3); `flags` are of the open file."""

    flags: int
    max_messages: int
    message_size: int
    messages: int


class Status(NamedTuple):
    """`size`: bytes of all messages. `pid`: who is registered by mq_notify(3), 0: nobody; `notify`: SIGEV_ as how."""

    size: int
    notify: int
    signal: int
    pid: int


@dataclass(frozen=True, slots=True)
class Message:
    """One message, as it was sent."""

    priority: int
    text: bytes


class QueueNeed(NamedTuple):
    """A queue that has to be made over there. `unlinked`: its name is gone."""

    name: str
    max_messages: int
    message_size: int
    unlinked: bool = False


def is_message_queue(fd: int, found: os.stat_result) -> bool:
    """By the file system that it is on; `found`: its fstat(2). All queues are of the size of what they say when read:
    other files of network file systems are not asked."""
    if not stat.S_ISREG(found.st_mode) or os.major(found.st_dev) or (found.st_size, found.st_blocks) != (80, 0):
        return False
    status = bytearray(STATFS_SIZE)
    syscall("fstatfs", fd, address_of(status))
    return int.from_bytes(status[:8], "little") == MAGIC


def open_queue(name: str) -> int:
    """An existing one, for both directions, never blocking."""
    path = _argument(name)
    return syscall("mq_open", address_of(path), os.O_RDWR | os.O_NONBLOCK, 0, 0)


def make_queue(name: str, max_messages: int, message_size: int) -> int:
    """A new one, open as open_queue does; FileExistsError, and see refuse_queue."""
    if max(max_messages, message_size) >= 1 << 63:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    path, flags = _argument(name), os.O_RDWR | os.O_NONBLOCK | os.O_CREAT | os.O_EXCL
    attributes = ATTRIBUTES.pack(0, max_messages, message_size, *[0] * 5)
    arguments = address_of(path), flags, 0o600, address_of(attributes)
    try:
        return syscall("mq_open", *arguments)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
    _raise_limit()
    return syscall("mq_open", *arguments)


def _raise_limit() -> None:
    """Of the bytes that root's queues may take, for this process: as far as it may."""
    for soft in (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_MSGQUEUE)[1]):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MSGQUEUE, (soft, soft))
            return


def remove_queue(name: str, inode: int) -> None:
    """Its name goes, if that is still the queue of this inode."""
    try:
        fd = open_queue(name)
    except FileNotFoundError:
        return
    try:
        if os.fstat(fd).st_ino == inode:
            path = _argument(name)
            with suppress(FileNotFoundError):  # somebody was faster
                syscall("mq_unlink", address_of(path))
    finally:
        os.close(fd)


def names() -> list[str]:
    """Of all that there are in this thread's IPC namespace; none where the kernel has no such queues."""
    try:
        with _mounted() as root:
            return sorted(os.listdir(root))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return []
        raise


def device() -> int:
    """That this thread's IPC namespace has its queues on: st_dev."""
    with _mounted() as root:
        return os.fstat(root).st_dev


@contextmanager
def _mounted() -> Iterator[int]:
    """The directory that the queues are in, which has no place in the file system."""
    kind = b"mqueue\0"
    context = syscall("fsopen", address_of(kind), FSOPEN_CLOEXEC)
    try:
        syscall("fsconfig", context, FSCONFIG_CMD_CREATE, 0, 0, 0)
        mount = syscall("fsmount", context, FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)
    try:
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    finally:
        os.close(mount)
    try:
        yield root
    finally:
        os.close(root)


def _argument(name: str) -> bytes:
    return os.fsencode(name) + b"\0"


@contextmanager
def opened_again(fd: int) -> Iterator[int]:
    """The queue behind a descriptor, open for both directions, never blocking."""
    ours = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield ours
    finally:
        os.close(ours)


def read_attributes(fd: int) -> Attributes:
    """Of the queue, and flags of the open file."""
    found = bytearray(ATTRIBUTES.size)
    syscall("mq_getsetattr", fd, 0, address_of(found))
    return Attributes(*ATTRIBUTES.unpack(found)[:4])


def read_status(fd: int) -> Status:
    """`fd` reads. Source: mq_overview(7), "Mounting the message queue filesystem"."""
    text = os.pread(fd, STATFS_SIZE, 0)
    found = _STATUS.match(text)
    if found is None:
        raise OSError(errno.EINVAL, f"a queue says of itself {text!r}")
    return Status(*map(int, found.groups()))


def copy_messages(fd: int) -> list[Message]:
    """All messages in the order in which they are received; they stay. `fd` as of open_queue or opened_again, and
    nobody uses the queue meanwhile: the kernel lets nobody look, so they are taken out and put back.
    """
    attributes = read_attributes(fd)
    if not attributes.messages:
        return []
    count, room = attributes.messages, read_status(fd).size + attributes.message_size
    texts, lost = ffi.new("char[]", room), ffi.new("int *")
    sizes, priorities = ffi.new("unsigned int[]", count), ffi.new("unsigned int[]", count)
    found = lib.mg_copy_queue(fd, attributes.message_size, texts, room, sizes, priorities, count, lost)
    if lost[0]:
        raise OSError(errno.EIO, f"{lost[0]} of its messages could not be put back")
    if found < 0:
        raise OSError(-found, os.strerror(-found))
    whole, messages, place = bytes(ffi.buffer(texts)), [], 0
    for size, priority in zip(sizes[0:found], priorities[0:found], strict=True):
        messages.append(Message(priority, whole[place : place + size]))
        place += size
    return messages


def send(fd: int, message: Message) -> None:
    """Behind those of its priority; BlockingIOError when there is no room."""
    syscall("mq_timedsend", fd, address_of(message.text), len(message.text), message.priority, 0)


def probe_queues(needs: Sequence[QueueNeed]) -> tuple[tuple[QueueNeed, int], ...]:
    """Those that cannot be made here beside each other, with errno: asked by making them, nameless at once."""
    failed, made = [], []
    try:
        for need in needs:
            try:
                if not need.unlinked and _exists(need.name):
                    raise FileExistsError(errno.EEXIST, need.name)
                passing = f"migrate-{os.urandom(8).hex()}"
                made.append(make_queue(passing, need.max_messages, need.message_size))
                remove_queue(passing, os.fstat(made[-1]).st_ino)
            except OSError as error:
                failed.append((need, error.errno or 0))
    finally:
        for fd in made:
            os.close(fd)
    return tuple(failed)


def _exists(name: str) -> bool:
    try:
        os.close(open_queue(name))
    except FileNotFoundError:
        return False
    return True


def describe(name: str) -> str:
    """How messages name a queue."""
    return f"POSIX message queue /{name}"


def refuse_queue(need: QueueNeed, error: int) -> Blocker:
    """Why it cannot be made where making it ended with this errno. Pure."""
    subject, lacks = describe(need.name), "and root over there lacks CAP_SYS_RESOURCE"
    match error:
        case errno.EEXIST:
            hint = f"rm /dev/mqueue/{need.name} over there, if nobody needs that"
            return Blocker("mqueue-taken", subject, "its name is taken over there", hint)
        case errno.EINVAL:
            size = f"{need.max_messages} messages of {need.message_size} bytes"
            hint = "raise fs.mqueue.msg_max and fs.mqueue.msgsize_max there"
            return Blocker("mqueue-limits", subject, f"is for {size}, which is above the limits, {lacks}", hint)
        case errno.ENOSPC:
            return Blocker("mqueue-limits", subject, "no more queues may be made there", "raise fs.mqueue.queues_max")
        case errno.EMFILE:
            hint = "raise it for logins (limits.conf: msgqueue), or remove queues there"
            return Blocker("mqueue-limits", subject, "needs more than root's RLIMIT_MSGQUEUE leaves there", hint)
    return Blocker("mqueue", subject, f"cannot be made there: {os.strerror(error)}", "see mq_overview(7)")
