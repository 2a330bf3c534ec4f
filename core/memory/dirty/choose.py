"""Picks the dirty tracker by doing: what works on memory of our own is what the kernel has."""

import mmap
import os
from collections.abc import Callable
from functools import cache

from core.errors import KernelLacks
from core.kernel import pagemap_scan, userfaultfd
from core.kernel.calls import address_of
from core.kernel.pagemap_scan import PageCategory, ScanMasks
from core.kernel.userfaultfd import TrackedVma
from core.memory.dirty import DirtyTracker
from core.memory.dirty.hashes import HashTracker
from core.memory.dirty.soft_dirty import SoftDirtyTracker, probe_soft_dirty
from core.memory.dirty.uffd import UffdTracker
from core.memory.present import THERE
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from core.options import TrackChoice


def choose_tracker(
    pid: int, open_uffd: Callable[[], int], *, kind: TrackChoice | None = None, exclude: Ranges = EMPTY
) -> DirtyTracker:
    """The best tracker this kernel has, or `kind`. `open_uffd` makes a userfaultfd in the process and hands us a
    duplicate; it is called only when needed. KernelLacks: it has no `kind`.
    """
    match kind or probe_tracker_kind():
        case "uffd-wp":
            return UffdTracker(pid, open_uffd(), exclude)
        case "soft-dirty":
            if not probe_soft_dirty():
                raise KernelLacks("soft-dirty bits", "clearing them works and setting them does not, or neither does")
            return SoftDirtyTracker(pid, exclude)
        case "hash":
            return HashTracker(pid, exclude)


@cache
def probe_tracker_kind() -> TrackChoice:
    """What this kernel can do, the best one first."""
    if probe_uffd_tracking():
        return "uffd-wp"
    return "soft-dirty" if probe_soft_dirty() else "hash"


def probe_uffd_tracking() -> bool:
    """Whether a store is seen, and only a store, on a tracked page of ours."""
    try:
        uffd = userfaultfd.open_own()
    except OSError:
        return False
    pagemap_fd = pagemap_scan.open_pagemap(os.getpid())
    try:
        userfaultfd.enable_async_tracking(uffd)
        return _sees_stores(pagemap_fd, uffd)
    except OSError:
        return False
    finally:
        os.close(pagemap_fd)
        os.close(uffd)


def _sees_stores(pagemap_fd: int, uffd: int) -> bool:
    memory = mmap.mmap(-1, PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[0] = 1
    address = address_of(memoryview(memory))
    span = (address, address + PAGE_SIZE)
    masks = ScanMasks(PageCategory.WPALLOWED | PageCategory.WRITTEN, THERE, PageCategory.WRITTEN, write_protect=True)
    if any(userfaultfd.track(pagemap_fd, uffd, [TrackedVma(*span, force=True)])):
        return False
    first, second = (bool(pagemap_scan.scan_pages(pagemap_fd, [span], masks)) for _ in range(2))
    memory[0] = 2
    third = bool(pagemap_scan.scan_pages(pagemap_fd, [span], masks))
    return (first, second, third) == (True, False, True)
