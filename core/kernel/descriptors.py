"""Many descriptors of a process looked at in one native call: a record of bytes for each, and what is in a record.

Two records that are equal tell the same of two descriptors in every respect that they tell of.
"""

import os
import socket
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, overload

from core.kernel.calls import uncleared
from core.native._kernel import ffi, lib

AT_ONCE: Final = 4096  # descriptors to a buffer
HEAD: Final = struct.Struct("<7i3I7Q2q10i")  # struct mg_sight
_INT: Final = struct.Struct("<i")


class Option(NamedTuple):
    """A socket option of all sockets of `domain` and, unless it is 0, `protocol`."""

    domain: int
    protocol: int
    level: int
    option: int
    size: int

    def is_of(self, domain: int, protocol: int) -> bool:
        """Asked of such a socket."""
        return self.domain == domain and self.protocol in (0, protocol)


class Questions:
    """The options that sockets are asked for, as the native call takes them. `shown`: sockets that are alike give the
    same answer about these."""

    def __init__(self, options: Sequence[Option], shown: Collection[Option] = ()) -> None:
        self.options = tuple(options)
        self.array = ffi.new("struct mg_option[]", [(*one, one in shown) for one in options])


class Head(NamedTuple):
    """struct mg_sight."""

    size: int
    error: int
    link_size: int
    info_size: int
    answers_size: int
    owner_type: int
    owner_pid: int
    mode: int
    uid: int
    gid: int
    device: int
    inode: int
    links: int
    device_kind: int
    file_size: int
    path_device: int
    path_inode: int
    filesystem: int
    block_size: int
    domain: int
    type: int
    protocol: int
    events: int
    waiting: int
    capacity: int
    filter: int
    urgent: int
    seals: int
    option_memory: int


class Asked:
    """What a socket has answered. Like socket.socket, as far as that asks and does not change anything."""

    def __init__(self, head: Head, answers: bytes, questions: Questions) -> None:
        self.family, self.type, self.proto, self.events = head.domain, head.type, head.protocol, head.events
        found = _answers(answers)
        self._name, self._peer = next(found), next(found)
        asked = (one for one in questions.options if one.is_of(head.domain, head.protocol))
        self._options = {(one.level, one.option): found for one, found in zip(asked, found, strict=True)}

    def getsockname(self) -> Any:
        """Address and port, or of AF_UNIX the name, as it is told there."""
        return self._shown(self._name)

    def getpeername(self) -> Any:
        """The same of the peer. OSError."""
        return self._shown(self._peer)

    @overload
    def getsockopt(self, level: int, option: int) -> int: ...

    @overload
    def getsockopt(self, level: int, option: int, size: int) -> bytes: ...

    def getsockopt(self, level: int, option: int, size: int = 0) -> int | bytes:
        """A number, or bytes where a size is given. OSError."""
        content = _content(self._options[level, option])
        return content[:size] if size else int(_INT.unpack_from(content)[0])

    def _shown(self, name: bytes | int) -> tuple[str, int] | bytes:
        content = _content(name)
        if self.family == socket.AF_UNIX:
            path = content[2:]
            return path if path.startswith(b"\0") else path.partition(b"\0")[0]
        start, size = (4, 4) if self.family == socket.AF_INET else (8, 16)
        address = socket.inet_ntop(self.family, content[start : start + size])
        return address, int.from_bytes(content[2:4], "big")


def _content(found: bytes | int) -> bytes:
    if isinstance(found, int):
        raise OSError(found, os.strerror(found))
    return found


def _answers(content: bytes) -> Iterator[bytes | int]:
    """Each value, or an errno."""
    position = 0
    while position < len(content):
        (size,) = _INT.unpack_from(content, position)
        position += 4
        yield -size if size < 0 else content[position : position + size]
        position += max(0, size + 3 & ~3)


@dataclass(frozen=True, slots=True)
class Sight:
    """A record, taken apart."""

    head: Head
    link: str
    info: str
    answers: bytes

    @property
    def stat(self) -> os.stat_result:
        """As of fstat(2), without times."""
        head = self.head
        fields = (head.mode, head.inode, head.device, head.links, head.uid, head.gid, head.file_size, 0, 0, 0)
        return os.stat_result(fields, {"st_rdev": head.device_kind})

    def asked(self, questions: Questions) -> Asked:
        """Of a socket; `questions`: what it was looked at with."""
        return Asked(self.head, self.answers, questions)


def ints(values: Sequence[int]) -> Any:
    """In an array."""
    return ffi.new("int[]", values)


def longs(values: Sequence[int]) -> Any:
    """The same of 64 bits."""
    return ffi.new("long long[]", values)


class Hints(NamedTuple):
    """What is known of descriptors before they are looked at, in arrays as struct mg_hints has them, each with one
    number of each; None: nothing is."""

    known: bytes = b""  # earlier records, which lie there at `places`
    places: Any = None
    texts: Any = None  # ours of the files in /proc/PID/fdinfo of these numbers, whatever is open there now
    kinds: Any = None  # of sockets, where they are alike (core.kernel.socket_records)
    facts: Any = None  # of core.kernel.file_facts: those of each are the ones at `fact_places`
    fact_places: Any = None
    operations: Any = None

    def packed(self) -> Any:
        """struct mg_hints, as long as this is there."""
        hints = ffi.new("struct mg_hints *")
        hints.known = ffi.from_buffer(self.known)
        for name in ("places", "texts", "kinds", "facts", "fact_places"):
            if (array := getattr(self, name)) is not None:
                setattr(hints, name, array)
        if self.operations is not None:
            hints.operations = self.operations[0]
        return hints


def look(
    pid: int, pidfd: int, fds: Sequence[int], questions: Questions, hints: Hints | None = None
) -> list[bytes | None]:
    """The record of each descriptor; what could not be looked at, as it was closed meanwhile, has one that tells of an
    error; None: it is the earlier one still. OSError: the process cannot be looked at."""
    known = hints or Hints()
    packed, numbers = known.packed(), ints(fds)
    records: list[bytes | None] = []
    for start in range(0, len(fds), AT_ONCE):
        count = min(AT_ONCE, len(fds) - start)
        buffer = uncleared("unsigned char[]", count * lib.MG_SIGHT_ROOM)
        spans = ffi.new("struct mg_slice[]", count)
        options = questions.array, len(questions.options)
        error = lib.mg_look_at_descriptors(pid, pidfd, numbers, start, count, *options, packed, buffer, spans)
        if error:
            raise OSError(-error, f"pid {pid}: {os.strerror(-error)}")
        view = memoryview(ffi.buffer(buffer))
        words = ffi.unpack(ffi.cast("long long *", spans), 2 * count)
        places, sizes = words[::2], words[1::2]
        if any(sizes):
            found = zip(places, sizes, strict=True)
            records += [bytes(view[place : place + size]) if size else None for place, size in found]
        else:
            records += [None] * count
    return records


def search_texts(texts: Sequence[int], wanted: bytes) -> bytes:
    """Of each of these files of ours whether `wanted` is in it: a byte that is not zero."""
    found = ffi.new("unsigned char[]", len(texts))
    lib.mg_search_texts(texts, len(texts), wanted, found)
    return bytes(ffi.buffer(found))


def is_error(record: bytes) -> bool:
    """It tells of an error."""
    return bool(_INT.unpack_from(record, _INT.size)[0])


def parse_sight(record: bytes) -> Sight | None:
    """What it tells; None of one that tells of an error."""
    if is_error(record):
        return None
    head = Head(*HEAD.unpack_from(record))
    link = record[HEAD.size : HEAD.size + head.link_size]
    start = HEAD.size + head.link_size + 8 & ~7  # behind its NUL
    info = record[start : start + head.info_size]
    start = start + head.info_size + 7 & ~7
    return Sight(head, os.fsdecode(link), os.fsdecode(info), record[start : start + head.answers_size])
