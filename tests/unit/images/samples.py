"""Messages with every field set, and for each kind of image a file's worth of records."""

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from core.images import kinds
from core.images.codec import Record
from core.images.kinds import Kind
from core.images.pb.filesystem_pb2 import GhostChunkEntry, GhostFileEntry
from core.images.pb.namespaces_pb2 import IpcMsg

KINDS = list(kinds.KINDS.values())
SOME_ID = 0xABC
BYTES_TYPES = {FieldDescriptor.TYPE_BYTES: b"\x00\xff raw", FieldDescriptor.TYPE_STRING: "naïve"}
# Fields that say how many raw bytes follow. Everything else may hold any number.
SIZES = {
    "PipeDataEntry.bytes": 5,
    "SkPacketEntry.length": 5,
    "TcpStreamEntry.inq_len": 2,
    "TcpStreamEntry.outq_len": 3,
    "BpfmapDataEntry.keys_bytes": 2,
    "BpfmapDataEntry.values_bytes": 3,
    "GhostChunkEntry.len": 5,
    "IpcShmEntry.size": 5,
    "IpcSemEntry.nsems": 3,
    "IpcMsgEntry.qnum": 1,
}
PAYLOADS = {
    **dict.fromkeys(["PIPES_DATA", "FIFO_DATA", "SK_QUEUES", "TCP_STREAM", "BPFMAP_DATA"], b"ABCDE"),
    "IPCNS_SEM": b"\1\0\2\0\3\0\0\0",
}


def filled(message_class: type[Message], *, optional: bool = True, depth: int = 4) -> Message:
    """A message with all its fields set, or only those it must have."""
    message = message_class()
    for field in message.DESCRIPTOR.fields:
        wanted = field.is_required or (optional and (field.message_type is None or depth > 0))
        if wanted:
            _fill(message, field, optional, depth)
    return message


def _fill(message: Message, field: FieldDescriptor, optional: bool, depth: int) -> None:
    if field.message_type is not None:
        nested = filled(field.message_type._concrete_class, optional=optional, depth=depth - 1)
        target = getattr(message, field.name)
        target.add().CopyFrom(nested) if field.is_repeated else target.CopyFrom(nested)
    elif field.is_repeated:
        getattr(message, field.name).extend([_value(field)] * 2)
    else:
        setattr(message, field.name, _value(field))


def _value(field: FieldDescriptor) -> object:
    name = f"{field.containing_type.name}.{field.name}"
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    if field.type == FieldDescriptor.TYPE_BOOL:
        return name not in ("GhostFileEntry.chunks", "IpcShmEntry.in_pagemaps")
    return BYTES_TYPES.get(field.type, SIZES.get(name, field.number))


def sample_records(kind: Kind[Message], *, optional: bool = True) -> list[Record[Message]]:
    """Records of one plausible file of this kind; two messages where it may have several."""
    if kind is kinds.GHOST_FILE:
        return [Record(filled(GhostFileEntry, optional=optional), b"all of it")]
    count = 1 if kind.single else 2
    messages = [filled(kind.message_class(index), optional=optional) for index in range(count)]
    return [Record(message, _payload(kind)) for message in messages]


def _payload(kind: Kind[Message]) -> bytes:
    if kind is kinds.IPCNS_SHM:
        return b"ABCDE\0\0\0"
    if kind is kinds.IPCNS_MSG:
        body = IpcMsg(mtype=1, msize=3).SerializeToString()
        return len(body).to_bytes(4, "little") + body + b"msg\0\0\0\0\0"
    return PAYLOADS.get(kind.name, b"")


def chunked_ghost() -> list[Record[Message]]:
    """A ghost file with holes: chunks instead of one content."""
    head = filled(GhostFileEntry, optional=False)
    head.chunks = True
    chunk = GhostChunkEntry(len=5, off=4096)
    return [Record(head), Record(chunk, b"ABCDE"), Record(chunk, b"FGHIJ")]


def file_name(kind: Kind[Message]) -> str:
    """Its name with SOME_ID where it takes one."""
    return kind.file_name(SOME_ID if kind.has_id else None)
