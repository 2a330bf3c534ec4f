"""What an image calls the kinds of open files, and how messages name them. Pure."""

from socket import IPPROTO_UDP
from typing import Final, Literal, TypeAlias

from core.errors import ImageError
from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.plan.unix_names import shown

Member: TypeAlias = Literal[
    "reg", "pipe", "fifo", "usk", "efd", "epfd", "tfd", "sgfd", "isk", "pidfd", "tty", "ify", "ffy", "memfd", "mqueue",
    "nlsk",
]  # fmt: skip
MEMBERS: Final[dict[FdTypes, Member]] = {
    FdTypes.REG: "reg", FdTypes.PIPE: "pipe", FdTypes.FIFO: "fifo", FdTypes.UNIXSK: "usk", FdTypes.EVENTFD: "efd",
    FdTypes.EVENTPOLL: "epfd", FdTypes.TIMERFD: "tfd", FdTypes.SIGNALFD: "sgfd", FdTypes.INETSK: "isk",
    FdTypes.PIDFD: "pidfd", FdTypes.TTY: "tty", FdTypes.INOTIFY: "ify", FdTypes.FANOTIFY: "ffy", FdTypes.MEMFD: "memfd",
    FdTypes.MQUEUEFD: "mqueue", FdTypes.NETLINKSK: "nlsk",
}  # fmt: skip


def describe(entry: FileEntry) -> str:
    """A file of an image as messages name it."""
    if entry.type == FdTypes.REG:
        return entry.reg.name
    if entry.type == FdTypes.PIPE:
        return f"pipe:[{entry.pipe.pipe_id}]"
    if entry.type == FdTypes.MEMFD:
        return f"memfd inode {entry.memfd.inode_id}"
    if entry.type == FdTypes.INETSK:
        return f"{'udp' if entry.isk.proto == IPPROTO_UDP else 'tcp'} port {entry.isk.src_port}"
    if entry.type == FdTypes.UNIXSK:
        return f"UNIX socket {shown(entry.usk.name)}"
    if entry.type == FdTypes.NETLINKSK:
        return f"netlink socket of protocol {entry.nlsk.protocol}"
    if entry.type == FdTypes.MQUEUEFD:
        return f"POSIX message queue {entry.mqueue.queue_id}"
    return FdTypes.Name(entry.type).lower()


def check_member(entry: FileEntry) -> None:
    """ImageError when an entry lacks what its type says that it is."""
    member = MEMBERS.get(entry.type)
    if member is not None and not entry.HasField(member):
        raise ImageError("files.img", f"file {entry.id} has no {member}, which its type {entry.type} asks for")
