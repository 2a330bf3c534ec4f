"""Many small files of /proc in one native call. The only other opener of /proc is reader.py."""

import errno
import os
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from core.kernel.calls import uncleared
from core.native._kernel import ffi, lib

ROOM_EACH: Final = 4096
MOST_ROOM: Final = 16 << 20
SPARE_ROOM: Final = 8 * lib.MG_FILE_ROOM  # every thread of the native part needs as much for the file it reads


class What(IntEnum):
    """What is read: a file's content, where a symbolic link leads, a directory's names (a NUL behind each)."""

    CONTENT = lib.MG_FILE
    LINK = lib.MG_LINK
    NAMES = lib.MG_NAMES


def read_all(paths: Sequence[str], what: What = What.CONTENT) -> list[bytes | int]:
    """What there is of every path; an errno where that is not to be had."""
    found = _read_some(paths, what)
    while left := [place for place, one in enumerate(found) if one == lib.MG_NO_ROOM]:
        for place, one in zip(left, _read_some([paths[place] for place in left], what), strict=True):
            found[place] = one
    return found


def _read_some(paths: Sequence[str], what: What) -> list[bytes | int]:
    """As many as fit, one at least, and MG_NO_ROOM for the others."""
    if not paths:
        return []
    room = min(SPARE_ROOM + len(paths) * ROOM_EACH, MOST_ROOM)
    buffer = uncleared("unsigned char[]", room)
    slices = uncleared("struct mg_slice[]", len(paths))
    names = os.fsencode("\0".join(paths))
    lib.mg_read_files(names, len(paths), what, buffer, room, slices)
    view = ffi.buffer(buffer)
    words = ffi.unpack(ffi.cast("long long *", slices), 2 * len(paths))
    return [
        view[start : start + size] if size >= 0 else _alone(path, what, -size)
        for path, start, size in zip(paths, words[::2], words[1::2], strict=True)
    ]


def _alone(path: str, what: What, error: int) -> bytes | int:
    """What did not fit with the others."""
    if error != errno.EFBIG:
        return error
    try:
        if what is What.NAMES:
            return b"".join(name + b"\0" for name in os.listdir(os.fsencode(path)))
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as failure:
        return failure.errno or errno.EIO
