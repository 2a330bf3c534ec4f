"""Which pages a process has: PAGEMAP_SCAN, or plain /proc/PID/pagemap where the kernel has no such ioctl.

Owns the category bits and the open pagemap descriptor; what the categories mean for us is core.memory's.
"""

import errno
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntFlag
from functools import cache
from itertools import chain

from core.kernel.calls import uncleared
from core.native._kernel import ffi, lib

REGIONS_AT_ONCE = 4096


class PageCategory(IntFlag):
    """What PAGEMAP_SCAN says of a page. Source: linux/fs.h PAGE_IS_*; SOFT_DIRTY..GUARD as of v6.16."""

    WPALLOWED = 1 << 0
    WRITTEN = 1 << 1
    FILE = 1 << 2
    PRESENT = 1 << 3
    SWAPPED = 1 << 4
    PFNZERO = 1 << 5
    HUGE = 1 << 6
    SOFT_DIRTY = 1 << 7
    GUARD = 1 << 8


NO_CATEGORY = PageCategory(0)


@dataclass(frozen=True, slots=True)
class ScanMasks:
    """The masks of one PAGEMAP_SCAN: `every` and `any_of` choose pages, `returned` is told of them.

    `only_tracked`: EPERM where memory is not tracked.
    """

    every: PageCategory = NO_CATEGORY
    any_of: PageCategory = NO_CATEGORY
    returned: PageCategory = NO_CATEGORY
    write_protect: bool = False
    only_tracked: bool = False


PageRegion = tuple[int, int, int]
"""(start, end, categories): [start, end) whose pages all have these. Plain, as there may be one per page."""


@dataclass(frozen=True, slots=True)
class ZeroFrames:
    """Page frame numbers of the kernel's zero page and huge zero page, as far as known."""

    page: int = 2**64 - 1
    huge: int = 2**64 - 1


Spans = Sequence[tuple[int, int]]


def open_pagemap(pid: int) -> int:
    """A descriptor of /proc/PID/pagemap; it stays with the mm the process has now (an exec makes another)."""
    return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def span_array(spans: Spans) -> ffi.CData:
    """The spans as C wants them; keep the result alive during the call."""
    flat = array("Q", chain.from_iterable(spans))
    return ffi.from_buffer("struct mg_span[]", flat)


def scan_pages(pagemap_fd: int, spans: Spans, masks: ScanMasks) -> list[PageRegion]:
    """Every region of the spans that fits the masks, ascending; no region crosses a span. OSError on failure."""
    return list(_regions(pagemap_fd, spans, scan_argument(masks), None))


def scan_argument(masks: ScanMasks) -> ffi.CData:
    """The masks as C wants them."""
    return ffi.new(
        "struct mg_scan *",
        {
            "flags": lib.MG_SCAN_WP_MATCHING * masks.write_protect | lib.MG_SCAN_CHECK_WPASYNC * masks.only_tracked,
            "category_mask": int(masks.every),
            "category_anyof_mask": int(masks.any_of),
            "return_mask": int(masks.returned),
        },
    )


def read_pages(pagemap_fd: int, spans: Spans, zero: ZeroFrames) -> list[PageRegion]:
    """All PRESENT, SWAPPED and GUARD regions by reading the pagemap: with FILE, SOFT_DIRTY and PFNZERO."""
    return list(_regions(pagemap_fd, spans, None, zero))


def _regions(pagemap_fd: int, spans: Spans, scan: ffi.CData, zero: ZeroFrames | None) -> Iterator[PageRegion]:
    if not spans:
        return
    c_spans = span_array(spans)
    regions = uncleared("struct mg_page_region[]", REGIONS_AT_ONCE)
    position = ffi.new("struct mg_scan_position *", {"span": 0, "address": spans[0][0]})
    while position.span < len(spans):
        rest = (regions, REGIONS_AT_ONCE, position)
        if zero is None:
            found = lib.mg_pagemap_scan(pagemap_fd, c_spans, len(spans), scan, *rest)
        else:
            found = lib.mg_pagemap_read(pagemap_fd, c_spans, len(spans), zero.page, zero.huge, *rest)
        if found < 0:
            raise OSError(-found, f"pagemap: {os.strerror(-found)}")
        words = array("Q", bytes(ffi.buffer(regions, found * 24)))
        yield from zip(words[0::3], words[1::3], words[2::3], strict=True)


def parse_entries(entries: Sequence[int], address: int, zero: ZeroFrames) -> list[PageRegion]:
    """Regions of consecutive pagemap entries, the first being that of `address`. Source: admin-guide/mm/pagemap."""
    regions = ffi.new("struct mg_page_region[]", max(1, len(entries)))
    used = ffi.new("int *")
    found = lib.mg_pagemap_parse(
        list(entries), len(entries), address, zero.page, zero.huge, regions, len(entries), used
    )
    return [(regions[i].start, regions[i].end, regions[i].categories) for i in range(found)]


@cache
def known_categories() -> PageCategory | None:
    """probe_categories() of this kernel, asked once."""
    pagemap_fd = open_pagemap(os.getpid())
    try:
        return probe_categories(pagemap_fd)
    finally:
        os.close(pagemap_fd)


def probe_categories(pagemap_fd: int) -> PageCategory | None:
    """The categories this kernel's PAGEMAP_SCAN can return, None when it has no PAGEMAP_SCAN. Asked by doing."""
    base = PageCategory.WRITTEN | PageCategory.PRESENT | PageCategory.FILE | PageCategory.PFNZERO | PageCategory.HUGE
    for returned in (base | PageCategory.GUARD, base):
        try:
            scan_pages(pagemap_fd, [(0, 4096)], ScanMasks(any_of=PageCategory.PRESENT, returned=returned))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise
        else:
            return returned
    return None
