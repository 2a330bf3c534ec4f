"""How a task with a proxied vDSO is recognised: a page of ours right below the kernel's own VMAs says what it knew.

To the next dump such a task looks as if it had never been moved: what its libc knows is its [vdso] again.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.proc.maps import Vma

NAMES: Final = ("[vvar]", "[vvar_vclock]", "[vdso]")
MAGIC: Final = b"migrate vDSO v1\0"
HEAD: Final = struct.Struct(f"<{len(MAGIC)}sQ")  # and how many places follow
PLACE: Final = struct.Struct("<16sQQ")  # name, start, end

Places = Mapping[str, tuple[int, int]]
Read = Callable[[int, int], bytes]  # (address, size)


@dataclass(frozen=True, slots=True)
class VdsoCode:
    """Where the vDSO code of a task lies. `proxied`: a thread inside could not go on elsewhere."""

    spans: Ranges = EMPTY
    proxied: bool = False


NO_CODE: Final = VdsoCode()


def encode_mark(places: Places) -> bytes:
    """The page that remembers where the task had [vdso] and its like."""
    entries = b"".join(PLACE.pack(name.encode(), *span) for name, span in places.items())
    return (HEAD.pack(MAGIC, len(places)) + entries).ljust(PAGE_SIZE, b"\0")


def parse_mark(page: bytes) -> dict[str, tuple[int, int]] | None:
    """Name → (start, end); None when the page is no mark."""
    magic, count = HEAD.unpack_from(page)
    if magic != MAGIC or count > len(NAMES):
        return None
    found = [PLACE.unpack_from(page, HEAD.size + index * PLACE.size) for index in range(count)]
    return {name.rstrip(b"\0").decode(errors="replace"): (start, end) for name, start, end in found}


def find_mark(vmas: Sequence[Vma], read: Read) -> tuple[Vma, dict[str, tuple[int, int]]] | None:
    """The mark's VMA and what it says; None for a task that lives with a vDSO of its kernel alone."""
    lowest = next((index for index, vma in enumerate(vmas) if vma.path in NAMES), 0)
    below = vmas[lowest - 1] if lowest else None
    if below is None or below.end != vmas[lowest].start or below.size != PAGE_SIZE or below.path or below.writable:
        return None
    places = parse_mark(read(below.start, PAGE_SIZE)) if below.readable else None
    return (below, places) if places and "[vdso]" in places else None


def unproxied(vmas: Sequence[Vma], read: Read) -> tuple[Vma, ...]:
    """The VMAs as the task knows them: the proxied [vdso] as its own, without the kernel's that it leads to."""
    marked = find_mark(vmas, read)
    if marked is None:
        return tuple(vmas)
    mark, places = marked
    replaced = Ranges.of(places.values())
    kept = [vma for vma in vmas if not (vma.path in NAMES or vma == mark or replaced.overlaps(vma.start, vma.end))]
    known = [Vma(start, end, True, False, name == "[vdso]", False, path=name) for name, (start, end) in places.items()]
    return tuple(sorted((*kept, *known)))


def vdso_code(vmas: Sequence[Vma], read: Read) -> VdsoCode:
    """Where a thread may be found inside vDSO code."""
    spans = [(vma.start, vma.end) for vma in vmas if vma.path == "[vdso]"]
    marked = find_mark(vmas, read)
    if marked is None:
        return VdsoCode(Ranges.of(spans))
    return VdsoCode(Ranges.of([*spans, marked[1]["[vdso]"]]), proxied=True)
