"""/proc/PID/auxv: the auxiliary vector, as 64-bit words."""

import struct
from collections.abc import Sequence
from typing import Final

from core.errors import CollectError

AT_NULL, AT_PHDR, AT_BASE, AT_ENTRY, AT_HWCAP, AT_MINSIGSTKSZ = 0, 3, 7, 9, 16, 51
AT_SYSINFO_EHDR: Final = 33


def parse_auxv(content: bytes, file: str = "auxv") -> tuple[int, ...]:
    """Words in pairs (type, value), the closing AT_NULL pair included."""
    if len(content) % 16:
        raise CollectError(file, f"{len(content)} bytes are not whole entries of a 64-bit task")
    return struct.unpack(f"<{len(content) // 8}Q", content)


def auxv_value(words: Sequence[int], kind: int) -> int | None:
    """Value of the entry of type `kind`; None when there is none."""
    return next((words[at + 1] for at in range(0, len(words) - 1, 2) if words[at] == kind), None)
