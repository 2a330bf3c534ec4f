"""The memory of a stopped skeleton that pages land in, at their final addresses, by /proc/PID/mem.

Does not map anything: the VMAs have to be there.
"""

import os

from core.kernel import pagemap_scan
from core.kernel.process_vm import Buffer
from core.memory.pages import land, land_zero, open_landing
from core.memory.present import open_pagemap, scan_present
from core.memory.ranges import EMPTY, Ranges


class LandingMemory:
    """Skeleton `pid`'s memory. `anonymous` is where a page that is not there reads as zero already (private
    anonymous VMAs): zero pages are only written where something is; `huge` are those of huge pages among them. Set
    both anew when the VMAs change.
    """

    def __init__(self, pid: int, anonymous: Ranges = EMPTY, huge: Ranges = EMPTY) -> None:
        self.anonymous = anonymous
        self.huge = huge
        self._mem_fd = open_landing(pid)
        self._pagemap_fd = open_pagemap(pid)
        self._categories = pagemap_scan.known_categories()

    @property
    def mem_fd(self) -> int:
        """/proc/PID/mem, for writing."""
        return self._mem_fd

    def land(self, runs: Ranges, memory: Buffer) -> None:
        """Write the runs' pages, back to back in `memory`, whatever the VMAs' protection. OSError."""
        land(self._mem_fd, runs, memory)

    def zero(self, runs: Ranges) -> None:
        """Make the runs' pages zero. OSError."""
        there = scan_present(self._pagemap_fd, runs.intersect(self.anonymous), self._categories).carried
        land_zero(self._mem_fd, there.union(runs.subtract(self.anonymous)))

    def close(self) -> None:
        """Give the descriptors back; the memory stays."""
        os.close(self._mem_fd)
        os.close(self._pagemap_fd)
