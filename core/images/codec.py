"""Bytes of one image file ↔ its records: magics, length-prefixed messages, raw payloads. Pure: no file is opened here.

Whatever is wrong with the bytes is an ImageError that names the file; nothing is allocated that the bytes do not fill.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Generic, NamedTuple, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, EncodeError, Message

from core.errors import ImageError
from core.images import payloads
from core.images.kinds import Kind

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Record(Generic[M]):
    """One message of a file and the raw bytes behind it, padding included."""

    message: M
    payload: bytes = b""


class Unparsed(Record[M]):
    """A record whose message, encoded already, is parsed when it is asked for. Nothing follows the message.

    Thousands of them are made while a tree stands still.
    """

    __slots__ = ("_class", "_encoded", "_parsed")
    _class: type[M]
    _encoded: bytes | memoryview
    _parsed: M | None

    def __init__(self, message_class: type[M], encoded: bytes | memoryview) -> None:
        object.__setattr__(self, "_class", message_class)
        object.__setattr__(self, "_encoded", encoded)
        object.__setattr__(self, "_parsed", None)
        object.__setattr__(self, "payload", b"")

    @property
    def message(self) -> M:
        """From now on it is what the record holds."""
        if self._parsed is None:
            object.__setattr__(self, "_parsed", self._class.FromString(bytes(self._encoded)))
        return self._parsed  # type: ignore[return-value]  # see above

    @property
    def encoded(self) -> bytes:
        """The message's bytes, as long as nobody has asked for it, who may have changed it; else nothing."""
        return bytes(self._encoded) if self._parsed is None else b""


def encode_file(kind: Kind[M], name: str, records: Iterable[Record[M]]) -> bytes:
    """The bytes of a whole file; ImageError for a message that lacks required fields or does not fit its payload."""
    return kind.header + b"".join(_encode_record(kind, name, record) for record in records)


def _encode_record(kind: Kind[M], name: str, record: Record[M]) -> bytes:
    if isinstance(record, Unparsed) and (encoded := record.encoded):
        return len(encoded).to_bytes(4, "little") + encoded
    try:
        body = record.message.SerializeToString()
    except EncodeError as error:
        raise ImageError(name, f"cannot be encoded: {error}") from error
    expected = kind.payload_size(record.message, memoryview(record.payload))
    if expected != len(record.payload):
        raise ImageError(name, f"the message announces {expected} bytes of content, {len(record.payload)} are given")
    return len(body).to_bytes(4, "little") + body + record.payload


def decode_file(kind: Kind[M], name: str, content: bytes | memoryview) -> list[Record[M]]:
    """The records of a whole file; ImageError for anything that a file of this kind cannot hold."""
    whole, header = bytes(content), kind.header
    if whole[: len(header)] != header:
        raise ImageError(name, _wrong_header(header, whole[: len(header)]))
    records: list[Record[M]] = []
    position, end = len(header), len(whole)
    while position < end:  # thousands of times while a tree stands still
        start = position + 4
        position = start + int.from_bytes(whole[position:start], "little")
        if start > end or position > end:
            raise ImageError(name, f"truncated: message {len(records)} ends at byte {position} of {end}")
        message = _parse(kind.message_class(len(records)), name, len(records), whole[start:position])
        content_at, position = position, position + _payload_size(kind, message, whole, position)
        if position > end:
            raise ImageError(name, f"truncated: content of message {len(records)} ends at byte {position} of {end}")
        records.append(Record(message, whole[content_at:position]))
    _check_count(kind, name, len(records))
    return records


def _payload_size(kind: Kind[M], message: M, whole: bytes, position: int) -> int:
    return 0 if kind.payload_size is payloads.none else kind.payload_size(message, memoryview(whole)[position:])


def _wrong_header(expected: bytes, found: bytes) -> str:
    if len(found) < len(expected):
        return f"truncated: {len(found)} bytes where the magic takes {len(expected)}"
    return f"wrong magic {found.hex()}, expected {expected.hex()}"


def _parse(message_class: type[M], name: str, index: int, body: bytes) -> M:
    try:
        message = message_class.FromString(body)
    except DecodeError as error:
        raise ImageError(name, f"message {index} does not parse: {error}") from error
    if not message.IsInitialized():
        raise ImageError(
            name, f"message {index} does not parse: required fields of {message.DESCRIPTOR.name} are missing"
        )
    if bad := _not_text(message):
        raise ImageError(name, f"message {index} does not parse: {bad} is not UTF-8")
    return message


def _check_count(kind: Kind[M], name: str, count: int) -> None:
    if kind.single and count != 1:
        raise ImageError(name, f"holds {count} messages, must hold one")
    if kind.head is not None and count == 0:
        raise ImageError(name, "truncated: the first message is missing")


def _not_text(message: Message) -> str | None:
    """Name of a string field that is not UTF-8: the parser lets these through and then hands out bytes for str."""
    for name, full_name, is_repeated, is_message in _text_fields(message.DESCRIPTOR):
        if not is_repeated and not message.HasField(name):
            continue
        value = getattr(message, name)
        for item in value if is_repeated else (value,):
            if is_message:
                if bad := _not_text(item):
                    return bad
            elif isinstance(item, bytes):
                return full_name
    return None


class _TextField(NamedTuple):
    """One that is a string, or a message that can hold some."""

    name: str
    full_name: str
    is_repeated: bool
    is_message: bool


@cache
def _text_fields(descriptor: Descriptor) -> tuple[_TextField, ...]:
    """Those of a type of message whose fields all know whether they are there (proto2)."""
    return tuple(
        _TextField(field.name, field.full_name, field.is_repeated, field.message_type is not None)
        for field in descriptor.fields
        if field.type == FieldDescriptor.TYPE_STRING
        or (field.message_type is not None and _reaches_text(field.message_type))
    )


@cache
def _reaches_text(descriptor: Descriptor) -> bool:
    """True when a message of this type can hold strings, itself or in what it contains."""
    seen: set[str] = set()
    waiting = [descriptor]
    while waiting:
        current = waiting.pop()
        seen.add(current.full_name)
        if any(field.type == FieldDescriptor.TYPE_STRING for field in current.fields):
            return True
        nested = [field.message_type for field in current.fields if field.message_type is not None]
        waiting.extend(found for found in nested if found.full_name not in seen)
    return False
