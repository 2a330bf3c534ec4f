"""Which areas rseq(2) registers here. Before Linux 6.3 they have 32 bytes; since then also larger ones, if they have
room for all that the kernel writes, which the auxiliary vector tells. Source: kernel/rseq.c, getauxval(3).
"""

from functools import cache
from pathlib import Path
from typing import Final

from core.proc.auxv import auxv_value, parse_auxv

ORIGINAL_SIZE: Final = 32
AT_RSEQ_FEATURE_SIZE: Final = 27
ALIGNMENT: Final = 32


@cache
def feature_size() -> int | None:
    """Bytes that this kernel writes; None where it knows the original size only."""
    return auxv_value(parse_auxv(Path("/proc/self/auxv").read_bytes()), AT_RSEQ_FEATURE_SIZE)


def size_here(address: int, size: int, written: int | None) -> int:
    """With which size an area of `size` bytes is registered where `written` is feature_size().

    As it was where that is possible. Otherwise with the original size: what lies behind is not written.
    """
    larger = written is not None and size >= written and address % ALIGNMENT == 0
    return size if size == ORIGINAL_SIZE or larger else ORIGINAL_SIZE
