"""Finds the kernel's zero pages in /proc/PID/pagemap, for kernels whose pagemap does not tell them apart."""

import mmap
import os
from contextlib import suppress
from functools import cache

from core.kernel.calls import address_of
from core.kernel.pagemap_scan import ZeroFrames
from core.memory.ranges import PAGE_SIZE

HUGE_PAGE_SIZE = 1 << 21
PRESENT_BIT = 63
FRAME_MASK = (1 << 55) - 1


@cache
def probe_zero_frames() -> ZeroFrames:
    """The frames behind never-written memory of our own; without CAP_SYS_ADMIN the kernel hides them: none known."""
    unknown = ZeroFrames()
    page = _frame_of_fresh_page(PAGE_SIZE, mmap.MADV_NOHUGEPAGE) or unknown.page
    huge = _frame_of_fresh_page(HUGE_PAGE_SIZE, mmap.MADV_HUGEPAGE) or unknown.huge
    return ZeroFrames(page, huge if huge != page else unknown.huge)


def _frame_of_fresh_page(size: int, advice: int) -> int:
    """Frame number of a fresh page (of `size`, aligned to it) after a read, 0 when hidden."""
    memory = mmap.mmap(-1, 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(advice)
    address = address_of(memoryview(memory))
    offset = -address % size
    if memory[offset] != 0:
        return 0
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        raw = os.pread(pagemap.fileno(), 8, (address + offset) // PAGE_SIZE * 8)
    entry = int.from_bytes(raw, "little")
    return entry & FRAME_MASK if entry >> PRESENT_BIT else 0
