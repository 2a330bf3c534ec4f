"""Content of deleted files in a directory of images (ghost-file-N.img): written and read piece by piece.

An image set holds their heads alone: they may be as large as any file.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from core.errors import ImageError
from core.images.kinds import GHOST_FILE
from core.images.pb.filesystem_pb2 import GhostChunkEntry, GhostFileEntry

PIECE: Final = 1 << 20
LARGEST_MESSAGE: Final = 1 << 16


def write_ghost(directory: Path, id: int, head: GhostFileEntry, content: Iterable[tuple[int, memoryview]]) -> None:
    """One file: its head, and the pieces of `content` (offset, bytes); what is beyond head.size is cut off."""
    path = directory / GHOST_FILE.file_name(id)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(GHOST_FILE.header)
        file.write(_message(head.SerializeToString()))
        for offset, memory in content:
            piece = memory[: max(0, head.size - offset)]
            if piece:
                file.write(_message(GhostChunkEntry(len=len(piece), off=offset).SerializeToString()))
                file.write(piece)


def _message(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


def read_ghost_head(path: Path) -> GhostFileEntry:
    """The head of a ghost-file image; ImageError when it is none."""
    with GhostImage(path) as image:
        return image.head


class GhostImage:
    """One ghost-file image, open for reading. ImageError for whatever is wrong with it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except OSError as error:
            raise ImageError(str(path), f"cannot be read: {error.strerror}") from error
        try:
            if self._file.read(len(GHOST_FILE.header)) != GHOST_FILE.header:
                raise ImageError(path.name, "wrong magic")
            self.head = GhostFileEntry()
            self._parse(self.head, self._exactly(4))
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "GhostImage":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _exactly(self, size: int) -> bytes:
        content = self._file.read(size)
        if len(content) != size:
            raise ImageError(self._path.name, f"truncated: {size} bytes are needed, {len(content)} are there")
        return content

    def _parse(self, message: GhostFileEntry | GhostChunkEntry, length: bytes) -> None:
        size = int.from_bytes(length, "little")
        if size > LARGEST_MESSAGE:
            raise ImageError(self._path.name, f"a message of {size} bytes")
        try:
            message.ParseFromString(self._exactly(size))
        except DecodeError as error:
            raise ImageError(self._path.name, f"does not parse: {error}") from error
        if not message.IsInitialized():
            raise ImageError(self._path.name, "required fields are missing")

    def content(self) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of all that is no hole, once, in pieces of at most PIECE bytes."""
        if not self.head.chunks:  # older releases of CRIU: everything, from the beginning
            yield from self._pieces(0, None)
            return
        while length := self._file.read(4):
            if len(length) != 4:
                raise ImageError(self._path.name, "truncated")
            chunk = GhostChunkEntry()
            self._parse(chunk, length)
            yield from self._pieces(chunk.off, chunk.len)

    def _pieces(self, offset: int, left: int | None) -> Iterator[tuple[int, bytes]]:
        while left is None or left:
            piece = self._file.read(PIECE if left is None else min(PIECE, left))
            if not piece:
                if left is None:
                    return
                raise ImageError(self._path.name, "truncated")
            yield offset, piece
            offset += len(piece)
            left = None if left is None else left - len(piece)
