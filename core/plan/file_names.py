"""How messages name the open files of an image. Pure."""

from socket import IPPROTO_UDP

from core.images.pb.files_pb2 import FdTypes, FileEntry
from core.plan.unix_names import shown


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
    if entry.type == FdTypes.MQUEUEFD:
        return f"POSIX message queue {entry.mqueue.queue_id}"
    return FdTypes.Name(entry.type).lower()
