"""Memory of the test's own process at a known address, mapped and stored to without Python objects in between."""

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.kernel.calls import syscall
from core.memory.ranges import PAGE_SIZE
from core.proc.maps import Vma, parse_maps

READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE
PROT_NONE = 0
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
MAP_FIXED = 0x10
MREMAP_MAYMOVE, MREMAP_FIXED = 1, 2


def vma_of(start: int, end: int, *, path: str = "", shared: bool = False) -> Vma:
    return Vma(start, end, True, True, False, shared, 0, (0, 0), 0, path)


class Area:
    """`pages` pages mapped at `start`, between two PROT_NONE pages: no VMA crosses its borders."""

    def __init__(self, start: int, pages: int) -> None:
        self.start, self.pages = start, pages
        self.end = start + pages * PAGE_SIZE

    def page(self, index: int) -> int:
        return self.start + index * PAGE_SIZE

    def span(self, first: int, last: int) -> tuple[int, int]:
        """The byte range of pages first..last-1."""
        return self.page(first), self.page(last)

    def store(self, index: int, value: int = 1) -> None:
        ctypes.memset(self.page(index), value, 1)

    def fill(self, value: int, first: int = 0, last: int | None = None) -> None:
        for index in range(first, self.pages if last is None else last):
            ctypes.memset(self.page(index), (value + index) % 255 + 1, PAGE_SIZE)

    def load(self, index: int) -> int:
        return ctypes.string_at(self.page(index), 1)[0]

    def bytes(self, first: int, last: int) -> bytes:
        return ctypes.string_at(self.page(first), (last - first) * PAGE_SIZE)

    @property
    def vmas(self) -> list[Vma]:
        """The kernel's VMAs in the area, as they are now."""
        found = parse_maps(Path("/proc/self/maps").read_text())
        return [vma for vma in found if self.start <= vma.start and vma.end <= self.end]


def map_at(start: int, pages: int, *, fd: int = -1, flags: int = PRIVATE, protection: int = READ_WRITE) -> None:
    syscall("mmap", start, pages * PAGE_SIZE, protection, flags | MAP_FIXED, fd, 0)


@contextmanager
def area(pages: int, *, fd: int = -1, flags: int = PRIVATE) -> Iterator[Area]:
    reserved = (pages + 2) * PAGE_SIZE
    base = syscall("mmap", 0, reserved, 0, PRIVATE, -1, 0)
    try:
        inner = Area(base + PAGE_SIZE, pages)
        map_at(inner.start, pages, fd=fd, flags=flags)
        yield inner
    finally:
        syscall("munmap", base, reserved)
