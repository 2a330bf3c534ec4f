"""Huge pages of hugetlbfs: their sizes, as flags and as files tell them, and how many are free."""

import mmap
import os
import re
from functools import cache
from pathlib import Path
from typing import Final

PAGE_SIZE: Final = mmap.PAGESIZE

# The same bits in mmap(2) (MAP_HUGE_SHIFT), memfd_create(2) and shmget(2): the binary logarithm of the size.
SIZE_SHIFT, SIZE_MASK = 26, 0x3F
MAP_HUGETLB, MFD_HUGETLB, SHM_HUGETLB = 0x40000, 4, 0o4000
HUGE_PAGE: Final = 2 << 20
SIZES: Final = (HUGE_PAGE,)  # what is carried; of larger ones (1 GiB) PAGEMAP_SCAN does not tell what was stored to
POOLS: Final = Path("/sys/kernel/mm/hugepages")


def page_size_of(fd: int) -> int:
    """Bytes of a page of the file: PAGE_SIZE unless it is on hugetlbfs."""
    return max(os.fstatvfs(fd).f_bsize, PAGE_SIZE)


@cache
def page_size_of_device(device: int) -> int:
    """Bytes of a page of the memory without a path on `device`; PAGE_SIZE unless it is of huge pages of SIZES."""
    for size in SIZES:
        try:
            fd = os.memfd_create("migrate", MFD_HUGETLB | size_flags(size))
        except OSError:  # no such pages here
            continue
        found = os.fstat(fd).st_dev
        os.close(fd)
        if found == device:
            return size
    return PAGE_SIZE


def size_flags(page_size: int) -> int:
    """The bits for huge pages of that size; 0 for ordinary ones."""
    return (page_size.bit_length() - 1) << SIZE_SHIFT if page_size > PAGE_SIZE else 0


def flagged_size(flags: int) -> int:
    """The size that the bits in `flags` tell; PAGE_SIZE for none. ValueError: it is none of SIZES."""
    shift = flags >> SIZE_SHIFT & SIZE_MASK
    if shift and 1 << shift not in SIZES:
        raise ValueError(f"huge pages of 2^{shift} bytes are not carried")
    return 1 << shift if shift else PAGE_SIZE


def free_pages(memory_bytes: int) -> dict[int, int]:
    """By size in bytes: pages that somebody could have now, those included that the pool may grow by, for which there
    is `memory_bytes` of ordinary memory (0: who knows)."""
    found = {}
    for pool in POOLS.glob("hugepages-*kB"):
        match = re.fullmatch(r"hugepages-(\d+)kB", pool.name)
        if match:
            names = ("free_hugepages", "resv_hugepages", "nr_overcommit_hugepages", "surplus_hugepages")
            free, reserved, more, surplus = (int((pool / name).read_text()) for name in names)
            size = int(match[1]) << 10
            room = memory_bytes // size if memory_bytes else more
            found[size] = max(0, free - reserved) + max(0, min(more - surplus, room))
    return found
