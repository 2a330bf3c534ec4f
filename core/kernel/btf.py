"""Where fields lie in this kernel's structs, by its own description of its types. Reads, decides nothing.

Source: Documentation/bpf/btf.rst.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from core.errors import KernelLacks

PATH: Final = Path("/sys/kernel/btf/vmlinux")
HEADER: Final = struct.Struct("<HBBIIIII")
TYPE: Final = struct.Struct("<III")  # name, kind with count, size or type
MEMBER: Final = struct.Struct("<III")  # name, type, offset in bits
MAGIC: Final = 0xEB9F
STRUCT, FUNCTION = 4, 12
MODIFIERS: Final = frozenset({8, 9, 10, 11, 18})  # typedef, volatile, const, restrict, type tag
AFTER: Final = {1: 4, 3: 12, 14: 4, 17: 4}  # bytes behind a type, by its kind
AFTER_EACH: Final = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}  # and for each of its members


def read_offsets(wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Offsets in bytes of `wanted` fields (struct → names); some 0.15 s. KernelLacks: this kernel has no such ones."""
    return read_layout(wanted, ())[0]


Layout = tuple[dict[str, dict[str, int]], dict[str, int]]


def read_layout(
    wanted: Mapping[str, Sequence[str]],
    functions: Sequence[str],
    optional: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Layout:
    """The same, of fields that are `optional` as far as they are there, and the numbers of functions' types."""
    try:
        return parse_layout(PATH.read_bytes(), wanted, functions, optional)
    except (OSError, LookupError, ValueError, struct.error) as error:
        names = ", ".join((*wanted, *functions))
        raise KernelLacks("BTF", f"{PATH} does not tell of {names}: {error}") from error


def parse_layout(
    content: bytes,
    wanted: Mapping[str, Sequence[str]],
    functions: Sequence[str] = (),
    optional: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> Layout:
    """The same from the file's content. LookupError, ValueError, struct.error: it is not there, or damaged."""
    magic, _, _, size, types_at, types_size, names_at, names_size = HEADER.unpack_from(content)
    if magic != MAGIC:
        raise ValueError("not BTF")
    names = content[size + names_at : size + names_at + names_size]
    types = _Types(content[size + types_at : size + types_at + types_size], names)
    found = {}
    for name in {**wanted, **optional}:
        offsets = dict(types.members(types.structs[_place_of(names, name)]))
        found[name] = {field: offsets[field] for field in wanted.get(name, ())}
        found[name] |= {field: offsets[field] for field in optional.get(name, ()) if field in offsets}
    return found, {name: types.function(_place_of(names, name)) for name in functions}


def _place_of(names: bytes, name: str) -> int:
    return names.index(b"\0" + name.encode() + b"\0") + 1


class _Types:
    def __init__(self, content: bytes, names: bytes) -> None:
        self._content, self._names = content, names
        self._places = [0]  # by number; 0 is void
        self.structs: dict[int, int] = {}  # place by name
        place = 0
        while place < len(content):
            name, info, _ = TYPE.unpack_from(content, place)
            kind = info >> 24 & 31
            self._places.append(place)
            if kind == STRUCT:
                self.structs.setdefault(name, place)
            place += TYPE.size + AFTER.get(kind, 0) + AFTER_EACH.get(kind, 0) * (info & 0xFFFF)

    def function(self, name: int) -> int:
        """The number of the function with the name at `name`. LookupError."""
        place = -1
        while (place := self._content.find(struct.pack("<I", name), place + 1)) >= 0:
            number = bisect_left(self._places, place)
            is_type = number < len(self._places) and self._places[number] == place
            if is_type and TYPE.unpack_from(self._content, place)[1] >> 24 & 31 == FUNCTION:
                return number
        raise LookupError("no such function")

    def members(self, place: int) -> Iterator[tuple[str, int]]:
        """Names and offsets in bytes, those of nameless members among them."""
        _, info, _ = TYPE.unpack_from(self._content, place)
        for index in range(info & 0xFFFF):
            name, type, bits = MEMBER.unpack_from(self._content, place + TYPE.size + MEMBER.size * index)
            offset = (bits & 0xFFFFFF if info >> 31 else bits) // 8
            if name:
                yield self._names[name : self._names.index(b"\0", name)].decode(), offset
            else:
                yield from ((inner, offset + within) for inner, within in self.members(self._struct(type)))

    def _struct(self, number: int) -> int:
        """Place of the type behind typedefs and qualifiers."""
        place = self._places[number]
        while TYPE.unpack_from(self._content, place)[1] >> 24 & 31 in MODIFIERS:
            place = self._places[TYPE.unpack_from(self._content, place)[2]]
        return place
