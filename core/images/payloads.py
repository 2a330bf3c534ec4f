"""How many raw bytes follow a message in the files that carry content beside messages.

Each function gets the message and what is left of the file behind it, and answers in bytes, padding included.
An answer larger than what is left means that the file is cut short; nothing here raises.
"""

from google.protobuf.message import DecodeError, Message

from core.images.pb.descriptors_pb2 import BpfmapDataEntry, PipeDataEntry
from core.images.pb.filesystem_pb2 import GhostChunkEntry, GhostFileEntry
from core.images.pb.namespaces_pb2 import IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry
from core.images.pb.sockets_pb2 import SkPacketEntry, TcpStreamEntry


def none(message: Message, rest: memoryview) -> int:
    """Most files: messages only."""
    return 0


def pipe(message: PipeDataEntry, rest: memoryview) -> int:
    """What was in a pipe or a FIFO."""
    return message.bytes


def packet(message: SkPacketEntry, rest: memoryview) -> int:
    """One packet of a socket's receive queue."""
    return message.length


def tcp(message: TcpStreamEntry, rest: memoryview) -> int:
    """The receive queue, then the send queue."""
    return message.inq_len + message.outq_len


def bpf_map(message: BpfmapDataEntry, rest: memoryview) -> int:
    """All keys, then all values."""
    return message.keys_bytes + message.values_bytes


def ghost(message: GhostFileEntry | GhostChunkEntry, rest: memoryview) -> int:
    """A ghost file's content: the whole rest of the file, or with `chunks` one piece behind each chunk message."""
    if isinstance(message, GhostChunkEntry):
        return message.len
    return 0 if message.chunks else len(rest)


def ipc_shm(message: IpcShmEntry, rest: memoryview) -> int:
    """A System V segment, padded to 4 bytes; with `in_pagemaps` its content is in pagemap-shmem instead."""
    return 0 if message.in_pagemaps else _padded(message.size, 4)


def ipc_sem(message: IpcSemEntry, rest: memoryview) -> int:
    """The values of a System V semaphore set, 2 bytes each, padded to 8 bytes."""
    return _padded(2 * message.nsems, 8)


def ipc_msg(message: IpcMsgEntry, rest: memoryview) -> int:
    """The messages of a System V queue: for each a length, an IpcMsg of that length and the text padded to 8 bytes."""
    position = 0
    for _ in range(message.qnum):
        size = int.from_bytes(rest[position : position + 4], "little")
        start, position = position + 4, position + 4 + size
        if position > len(rest):
            break
        try:
            position += _padded(IpcMsg.FromString(bytes(rest[start:position])).msize, 8)
        except DecodeError:
            return len(rest) + 1
    return position


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
