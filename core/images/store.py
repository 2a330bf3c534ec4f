"""A set of images in memory, and its two forms outside: a directory of files and one stream of bytes.

Raw pages (pages-N.img) and what deleted files hold are not part of a set: they are large, and core.images.pagemap
and core.images.ghosts open them when needed.
"""

import os
import stat
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message

from core.errors import ImageError
from core.images.codec import Record, decode_file, encode_file
from core.images.ghosts import read_ghost_head
from core.images.kinds import GHOST_FILE, Kind, is_image_name, is_pages_name, parse_file_name

M = TypeVar("M", bound=Message)

# A file of messages beyond this is damage or an attack, not an image.
LARGEST_FILE_BYTES = 1 << 30

STREAM_MAGIC = b"MIGIMAGE"
STREAM_VERSION = 1
_STREAM_HEAD = struct.Struct("<8sII")  # magic, version, number of files
_FILE_HEAD = struct.Struct("<HQI")  # length of the name, length of the content, crc32 of name and content


class ImageSet:
    """The images of one dump, by kind and id. Absent is not the same as empty: an empty file is a file."""

    def __init__(self) -> None:
        self._files: dict[tuple[Kind[Message], int | None], list[Record[Message]]] = {}

    def add(self, kind: Kind[M], message: M, id: int | None = None, payload: bytes = b"") -> None:
        """Append a message, with the raw bytes its kind carries behind it; makes the file if there is none."""
        records = self._create(kind, id)
        if not isinstance(message, kind.message_class(len(records))):
            raise ValueError(f"{kind.file_name(id)}: {type(message).__name__} does not belong here")
        if kind.single and records:
            raise ValueError(f"{kind.file_name(id)}: holds one message and has it")
        records.append(Record(message, payload))

    def extend(self, kind: Kind[M], records: Sequence[Record[M]], id: int | None = None) -> None:
        """add() of many, which belong there."""
        self._create(kind, id).extend(records)  # type: ignore[arg-type]  # they belong there

    def extend_each(self, kind: Kind[M], records: Mapping[int, Record[M]]) -> None:
        """A file for each id, with that record, which belongs there; ValueError when one is there already."""
        for id, record in records.items():
            if (kind, id) in self._files:
                raise ValueError(f"{kind.file_name(id)}: is there already")
            self._files[_key(kind, id)] = [record]  # type: ignore[list-item]  # it belongs there

    def add_empty(self, kind: Kind[M], id: int | None = None) -> None:
        """Make the file even though it holds no message, as for a task without descriptors."""
        self._create(kind, id)

    def one(self, kind: Kind[M], id: int | None = None) -> M:
        """The only message of a file; ImageError when the file is absent or holds another number of them."""
        messages = self.all(kind, id)
        if not self.has(kind, id):
            raise ImageError(kind.file_name(id), "is missing")
        if len(messages) != 1:
            raise ImageError(kind.file_name(id), f"holds {len(messages)} messages, must hold one")
        return messages[0]

    def all(self, kind: Kind[M], id: int | None = None) -> list[M]:
        """All messages of a file, in its order; none when the file is absent."""
        return [record.message for record in self.records(kind, id)]

    def payloads(self, kind: Kind[M], id: int | None = None) -> list[bytes]:
        """The raw bytes behind each message of a file, in its order."""
        return [record.payload for record in self.records(kind, id)]

    def records(self, kind: Kind[M], id: int | None = None) -> list[Record[M]]:
        """Messages and payloads of a file together; none when the file is absent."""
        found: list[Record[M]] = self._files.get(_key(kind, id), [])  # type: ignore[assignment]  # add() saw to it
        return list(found)

    def has(self, kind: Kind[M], id: int | None = None) -> bool:
        """True when the file is there, even an empty one."""
        return _key(kind, id) in self._files

    def ids(self, kind: Kind[M]) -> list[int]:
        """The ids of all files of this kind, ascending."""
        return sorted(id for found, id in self._files if found is kind and id is not None)

    def __iter__(self) -> Iterator[tuple[Kind[Message], int | None, list[Record[Message]]]]:
        """Every file: its kind, its id and its records."""
        return ((kind, id, list(records)) for (kind, id), records in self._files.items())

    def __len__(self) -> int:
        """Number of files."""
        return len(self._files)

    def _create(self, kind: Kind[M], id: int | None) -> list[Record[Message]]:
        key = _key(kind, id)
        if (records := self._files.get(key)) is None:
            kind.file_name(id)  # refuses an id too many or too few
            records = self._files[key] = []
        return records


def _key(kind: Kind[M], id: int | None) -> tuple[Kind[Message], int | None]:
    return kind, id  # type: ignore[return-value]  # the table is by identity; the type comes back with the kind


def write_directory(images: ImageSet, path: Path) -> None:
    """Write every file of the set into the directory `path`, which must exist; readable by the owner only."""
    for name, content in _encoded_files(images):
        descriptor = os.open(path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)


def read_directory(path: Path) -> ImageSet:
    """All images of a directory; ImageError when it or a file in it cannot be read or understood.

    Left out are raw pages and what deleted files hold (core.images.ghosts): of these there are the heads.
    """
    images = ImageSet()
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise ImageError(str(path), f"cannot be read: {error.strerror}") from error
    for name in names:
        if not is_image_name(name) or is_pages_name(name):
            continue
        kind, id = parse_file_name(name)
        if kind is GHOST_FILE:
            images.add(kind, read_ghost_head(path / name), id)
        else:
            _decode_into(images, name, read_file(path / name))
    return images


def encode_stream(images: ImageSet) -> bytes:
    """The whole set as one string of bytes, each file with its checksum."""
    files = list(_encoded_files(images))
    parts = [_STREAM_HEAD.pack(STREAM_MAGIC, STREAM_VERSION, len(files))]
    for name, content in files:
        encoded = name.encode()
        parts += [_FILE_HEAD.pack(len(encoded), len(content), _checksum(encoded, content)), encoded, content]
    return b"".join(parts)


def decode_stream(content: bytes | memoryview) -> ImageSet:
    """The set that `encode_stream` wrote; ImageError for anything else."""
    view = memoryview(content)
    magic, version, count = _STREAM_HEAD.unpack(_take(view, 0, _STREAM_HEAD.size))
    if magic != STREAM_MAGIC:
        raise ImageError("image stream", f"wrong magic {magic.hex()}")
    if version != STREAM_VERSION:
        raise ImageError("image stream", f"version {version}, this program reads {STREAM_VERSION}")
    images = ImageSet()
    position = _STREAM_HEAD.size
    for _ in range(count):
        position = _decode_stream_file(images, view, position)
    if position != len(view):
        raise ImageError("image stream", f"{len(view) - position} bytes after the end")
    return images


def _encoded_files(images: ImageSet) -> Iterator[tuple[str, bytes]]:
    for kind, id, records in images:
        name = kind.file_name(id)
        yield name, encode_file(kind, name, records)


def _decode_into(images: ImageSet, name: str, content: bytes | memoryview) -> None:
    kind, id = parse_file_name(name)
    if images.has(kind, id):
        raise ImageError(name, "appears twice")
    images.extend(kind, decode_file(kind, name, content), id)


def _decode_stream_file(images: ImageSet, view: memoryview, position: int) -> int:
    name_length: int
    length: int
    name_length, length, checksum = _FILE_HEAD.unpack(_take(view, position, _FILE_HEAD.size))
    name_start = position + _FILE_HEAD.size
    start = name_start + name_length
    encoded = bytes(_take(view, name_start, name_length))
    content = _take(view, start, length)
    if _checksum(encoded, content) != checksum:
        raise ImageError("image stream", f"the file at byte {position} fails its checksum")
    _decode_into(images, encoded.decode("ascii", "backslashreplace"), content)
    return start + length


def _take(view: memoryview, start: int, length: int) -> memoryview:
    if start + length > len(view):
        raise ImageError("image stream", f"truncated: ends at byte {len(view)}, {start + length} are needed")
    return view[start : start + length]


def _checksum(name: bytes, content: bytes | memoryview) -> int:
    return zlib.crc32(content, zlib.crc32(name))


def read_file(path: Path) -> bytes:
    """Content of a regular file; anything else (a FIFO would block us, a device might not end) is refused."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ImageError(str(path), "is not a regular file")
            if found.st_size > LARGEST_FILE_BYTES:
                raise ImageError(str(path), f"{found.st_size} bytes: too large for an image")
            return file.read(found.st_size)
    except OSError as error:
        raise ImageError(str(path), f"cannot be read: {error.strerror}") from error
