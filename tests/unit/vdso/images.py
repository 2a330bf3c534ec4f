"""vDSO images to try: of Debian's 6.1 and 6.12 kernels, as they lie in vmlinux, and this kernel's own."""

import os
import zlib
from pathlib import Path

from core.proc.reader import ProcReader
from core.tracee.remote import open_memory
from core.vdso.mark import NAMES

DATA = Path(__file__).parent / "data"


def own_places() -> dict[str, tuple[int, int]]:
    return {vma.name: (vma.start, vma.end) for vma in ProcReader().maps(os.getpid()) if vma.name in NAMES}


def own_image() -> bytes:
    start, end = own_places()["[vdso]"]
    with open_memory(os.getpid()) as memory:
        return memory.read(start, end - start)


# 6.1.192-2 and 6.12.117-1~deb12u1, the cloud flavours.
FOREIGN = {kernel: zlib.decompress((DATA / f"vdso-{kernel}.z").read_bytes()) for kernel in ("6.1", "6.12")}
IMAGES = {**FOREIGN, "own": own_image()}


def foreign_places(base: int) -> dict[str, tuple[int, int]]:
    """Where kernels before 6.13 put them: four pages of [vvar], then [vdso]."""
    return {"[vvar]": (base - 0x4000, base), "[vdso]": (base, base + 0x2000)}
