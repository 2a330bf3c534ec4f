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
    return _read_joined("\0".join(paths), len(paths), what)


def read_of_each(root: str, pids: Sequence[int], names: Sequence[str], what: What = What.CONTENT) -> list[bytes | int]:
    """The same of ROOT/PID/NAME: all names of the first PID, then of the next."""
    each = "\0".join(f"{root}/{{0}}/{name}" for name in names).format
    return _read_joined("\0".join(map(each, pids)), len(pids) * len(names), what)


def _read_joined(joined: str, count: int, what: What) -> list[bytes | int]:
    """`joined`: paths, a NUL between them."""
    found = _read_some(joined, count, what)
    if int not in set(map(type, found)):
        return found
    paths = joined.split("\0")
    while left := [place for place, one in enumerate(found) if one == lib.MG_NO_ROOM]:
        again = _read_some("\0".join([paths[place] for place in left]), len(left), what)
        for place, one in zip(left, again, strict=True):
            found[place] = one
    return [_alone(path, what) if one == errno.EFBIG else one for path, one in zip(paths, found, strict=True)]


def _read_some(joined: str, count: int, what: What) -> list[bytes | int]:
    """As many as fit, one at least, and MG_NO_ROOM for the others; EFBIG for one that is too large to fit with them."""
    if not count:
        return []
    room = min(SPARE_ROOM + count * ROOM_EACH, MOST_ROOM)
    buffer = uncleared("unsigned char[]", room)
    slices = uncleared("struct mg_slice[]", count)
    lib.mg_read_files(os.fsencode(joined), count, what, buffer, room, slices)
    view = ffi.buffer(buffer)
    words = ffi.unpack(ffi.cast("long long *", slices), 2 * count)
    return [
        view[start : start + size] if size >= 0 else -size for start, size in zip(words[::2], words[1::2], strict=True)
    ]


def _alone(path: str, what: What) -> bytes | int:
    """What did not fit with the others."""
    try:
        if what is What.NAMES:
            return b"".join(name + b"\0" for name in os.listdir(os.fsencode(path)))
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as failure:
        return failure.errno or errno.EIO
