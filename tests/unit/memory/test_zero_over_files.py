"""The kernel's zero page in a private mapping of a file: it hides what the file has there, and so it is carried."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest

from core.kernel import userfaultfd
from core.memory.dirty import DirtyTracker
from core.memory.dirty.hashes import HashTracker
from core.memory.dirty.uffd import scan_last
from core.memory.present import read_page_sets
from core.memory.ranges import EMPTY, PAGE_SIZE, Ranges
from tests.requires import require_root
from tests.unit.memory.area import Area, area
from tests.unit.memory.test_uffd_tracker import tracker_of

UFFDIO_ZEROPAGE: Final = 0xC020AA04  # _IOWR(0xAA, 0x04, struct uffdio_zeropage)
MAP_PRIVATE: Final = 2


def put_zero_pages(start: int, end: int) -> None:
    """In place of what is not there. As KSM does with pages of zeros (use_zero_pages)."""
    own = userfaultfd.open_own()
    try:
        userfaultfd.enable_filling(own)
        userfaultfd.register_missing(own, start, end)
        fcntl.ioctl(own, UFFDIO_ZEROPAGE, struct.pack("QQQq", start, end - start, 0, 0))
    finally:
        os.close(own)


@contextmanager
def zero_over_file() -> Iterator[Area]:
    """8 pages of a file of which the third and the fourth are zero pages."""
    require_root()
    fd = os.memfd_create("file")
    os.write(fd, b"f" * 8 * PAGE_SIZE)
    with area(8, fd=fd, flags=MAP_PRIVATE) as memory:
        os.close(fd)
        put_zero_pages(*memory.span(2, 4))
        yield memory


def looks_of(tracker: DirtyTracker, memory: Area, hidden: Ranges) -> None:
    here = Ranges((memory.span(0, 8),))
    assert tracker.collect_and_rearm(memory.vmas).ranges.intersect(here) == hidden
    assert tracker.present(memory.vmas).intersect(here) == hidden
    vmas = memory.vmas
    for _ in range(2):
        last = tracker.collect_last(vmas)
        assert (last.present.carried.intersect(here), last.dirty.zero.intersect(here)) == (hidden, EMPTY)
        scan_last([(tracker, vmas)])


def test_a_zero_page_over_a_file_is_carried() -> None:
    with zero_over_file() as memory:
        hidden = Ranges((memory.span(2, 4),))
        assert memory.load(1) == ord("f") and memory.load(2) == 0
        sets = read_page_sets(os.getpid(), memory.vmas)
        assert (sets.carried, sets.zero) == (hidden, EMPTY)


@pytest.mark.parametrize("kind", ["uffd-wp", "hash"])
def test_trackers_tell_of_it(kind: str) -> None:
    with zero_over_file() as memory:
        hidden = Ranges((memory.span(2, 4),))
        if kind == "hash":
            looks_of(HashTracker(os.getpid(), EMPTY), memory, hidden)
        else:
            with tracker_of(memory) as tracker:
                looks_of(tracker, memory, hidden)


def test_elsewhere_it_is_not() -> None:
    require_root()
    with area(4) as memory:
        assert memory.load(1) == 0
        assert read_page_sets(os.getpid(), memory.vmas).carried == EMPTY
