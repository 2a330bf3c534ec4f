"""Which areas rseq(2) registers here. Before Linux 6.3 they have 32 bytes; since then also larger ones, if they have
room for all that the kernel writes, which the auxiliary vector tells. Source: kernel/rseq.c, getauxval(3).
"""

from functools import cache
from pathlib import Path
from typing import Final

from core.proc.auxv import auxv_value, parse_auxv

ORIGINAL_SIZE: Final = 32
AT_RSEQ_FEATURE_SIZE, AT_RSEQ_ALIGN = 27, 28


@cache
def written_here() -> tuple[int, int] | None:
    """Bytes that this kernel writes, and what the address has to be a multiple of; None where it knows the original
    size only."""
    words = parse_auxv(Path("/proc/self/auxv").read_bytes())
    size, alignment = auxv_value(words, AT_RSEQ_FEATURE_SIZE), auxv_value(words, AT_RSEQ_ALIGN)
    return None if size is None or not alignment else (size, alignment)


def size_here(address: int, size: int, written: tuple[int, int] | None) -> int:
    """With which size an area of `size` bytes is registered where `written` is what written_here() tells.

    As it was where that is possible. Otherwise with the original size: what lies behind is not written.
    """
    larger = written is not None and size >= written[0] and address % written[1] == 0
    return size if size == ORIGINAL_SIZE or larger else ORIGINAL_SIZE
