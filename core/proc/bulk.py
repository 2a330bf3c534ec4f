"""Many small files of /proc in one native call. The only other opener of /proc is reader.py."""

import errno
import os
from collections.abc import Sequence
from typing import Final

from core.native._kernel import ffi, lib

ROOM_EACH: Final = 4096
MOST_ROOM: Final = 16 << 20

_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


def read_all(paths: Sequence[str], *, links: bool = False) -> list[bytes | int]:
    """Content of every file, or where every symbolic link leads; an errno where that is not to be had."""
    found: list[bytes | int] = []
    while len(found) < len(paths):
        found += _read_some(paths[len(found) :], links)
    return found


def _read_some(paths: Sequence[str], links: bool) -> list[bytes | int]:
    """The first of them, as many as fit."""
    room = min(2 * lib.MG_FILE_ROOM + len(paths) * ROOM_EACH, MOST_ROOM)
    buffer = _uncleared("unsigned char[]", room)
    slices = _uncleared("struct mg_slice[]", len(paths))
    names = os.fsencode("\0".join(paths))
    count = lib.mg_read_files(names, len(paths), links, buffer, room, slices)
    view = memoryview(ffi.buffer(buffer))
    words = ffi.unpack(ffi.cast("long long *", slices), 2 * count)
    return [
        bytes(view[start : start + size]) if size >= 0 else _alone(path, -size)
        for path, start, size in zip(paths, words[::2], words[1::2], strict=False)
    ]


def _alone(path: str, error: int) -> bytes | int:
    """What did not fit with the others."""
    if error != errno.EFBIG:
        return error
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as failure:
        return failure.errno or errno.EIO
