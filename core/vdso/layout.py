"""What a kernel's [vdso] and the VMAs beside it look like: whether a task can have ours in place of those it knew.

Compares where things are, never bytes: the kernel patches the code for the processor it runs on.
"""

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from elftools.common.exceptions import ELFError
from elftools.construct.core import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from core.errors import ImageError, KernelLacks
from core.proc.reader import ProcReader
from core.tracee.remote import open_memory
from core.vdso.mark import NAMES

FINGERPRINT_DIGITS: Final = 16
# what the parser raises for an image that is damaged in one way or another
NOT_ELF: Final = (ELFError, ConstructError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class VdsoLayout:
    """`vmas`: name, start relative to [vdso], size. `symbols`: name, offset in [vdso], size of each function. Sorted.

    The code reaches its data relative to itself, and a task keeps addresses of the functions: equal layouts are
    interchangeable.
    """

    vmas: tuple[tuple[str, int, int], ...]
    symbols: tuple[tuple[str, int, int], ...]

    @property
    def fingerprint(self) -> str:
        """Short text that is equal for equal layouts."""
        return hashlib.sha256(repr((self.vmas, self.symbols)).encode()).hexdigest()[:FINGERPRINT_DIGITS]


@cache
def read_vdso_layout() -> VdsoLayout:
    """Of this kernel, from our own process, in which it stays the same."""
    reader = ProcReader()
    places = {vma.name: (vma.start, vma.end) for vma in reader.maps(os.getpid()) if vma.name in NAMES}
    if "[vdso]" not in places:
        raise KernelLacks("vDSO", "this kernel gives its tasks none", hint="boot it without vdso=0")
    start, end = places["[vdso]"]
    with open_memory(os.getpid()) as memory:
        return make_layout(places, memory.read(start, end - start))


def vdso_fingerprint() -> str:
    """Of this kernel; between hosts where it is equal a task needs no proxy."""
    return read_vdso_layout().fingerprint


def make_layout(places: Mapping[str, tuple[int, int]], image: bytes) -> VdsoLayout:
    """From name → (start, end) and the content of [vdso]; ImageError when that is no ELF image."""
    base = places["[vdso]"][0]
    vmas = sorted((name, start - base, end - start) for name, (start, end) in places.items())
    return VdsoLayout(tuple(vmas), parse_symbols(image))


@cache
def parse_symbols(image: bytes) -> tuple[tuple[str, int, int], ...]:
    """The functions that a vDSO exports: name, offset, size, sorted."""
    try:
        table = ELFFile(io.BytesIO(image)).get_section_by_name(".dynsym")
        if not isinstance(table, SymbolTableSection):
            raise ImageError("[vdso]", "exports no symbols")
        named = {
            (symbol.name, symbol["st_value"], symbol["st_size"])
            for symbol in table.iter_symbols()
            if symbol.name and symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["type"] == "STT_FUNC"
        }
    except NOT_ELF as error:
        raise ImageError("[vdso]", f"is not a shared object: {error}") from error
    return tuple(sorted(named))
