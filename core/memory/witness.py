"""Which pages of a file were taken out of it (truncated, punched, reclaimed), whether or not others are there again.

Told by a mapping of our own that has them all and that nobody else touches: what is taken away is unmapped there.
"""

import mmap
import os

from core.kernel import pagemap_scan, userfaultfd
from core.kernel.calls import syscall
from core.kernel.pagemap_scan import PageCategory, ScanMasks
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges

MADV_POPULATE_READ = 22
PRESENT = ScanMasks(every=PageCategory.PRESENT, returned=PageCategory.PRESENT)


class PageWitness:
    """Of the first `size` bytes of the file behind `fd`, read-only. OSError where the kernel lacks the means."""

    def __init__(self, fd: int, size: int) -> None:
        self.size = -(-size // PAGE_SIZE) * PAGE_SIZE
        self._known = EMPTY
        self._address = 0
        self._uffd = self._pagemap_fd = -1
        try:
            self._address = syscall("mmap", 0, self.size, mmap.PROT_READ, mmap.MAP_PRIVATE, fd, 0)
            # Else a fault maps pages around it as well, some of which may have been taken away since we looked.
            self._uffd = userfaultfd.open_own()
            userfaultfd.enable_async_tracking(self._uffd)
            userfaultfd.disable_fault_around(self._uffd, self._address, self._address + self.size)
            self._pagemap_fd = pagemap_scan.open_pagemap(os.getpid())
        except BaseException:
            self.close()
            raise

    def keeps(self, pages: Ranges) -> Ranges:
        """Which of these have been in the file all the time since `meet`."""
        return pages.intersect(self._known).intersect(self._present())

    def meet(self, pages: Ranges, lost: Ranges = EMPTY) -> None:
        """Watch these from now on: they are in the file (a hole among them would be filled). `lost`: what keeps() has
        told of already, to be met anew; others may be lost since, and still have to be told of.
        """
        self._known = self._known.subtract(lost)
        met = []
        for start, end in pages.intersect(Ranges(((0, self.size),))).subtract(self._known):
            try:
                syscall("madvise", self._address + start, end - start, MADV_POPULATE_READ)
            except OSError:  # truncated meanwhile
                continue
            met.append((start, end))
        self._known = self._known.union(Ranges.ordered(met))

    def _present(self) -> Ranges:
        here = (self._address, self._address + self.size)
        found = pagemap_scan.scan_pages(self._pagemap_fd, [here], PRESENT)
        return Ranges.ordered((start - self._address, end - self._address) for start, end, _ in found)

    def close(self) -> None:
        """Idempotent."""
        for fd in (self._uffd, self._pagemap_fd):
            if fd >= 0:
                os.close(fd)
        self._uffd = self._pagemap_fd = -1
        if self._address:
            syscall("munmap", self._address, self.size)
        self._address = 0
