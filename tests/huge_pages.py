"""Huge pages of 2 MiB for tests: the pool may grow while a session of tests runs, and not after it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

POOL: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages")
COUNT: Final = 256


def has_huge_pages() -> bool:
    """Some can be had on demand."""
    try:
        return int(POOL.read_text()) >= COUNT
    except OSError:
        return False


@contextmanager
def huge_pages_on_demand() -> Iterator[None]:
    """COUNT of them, if we may allow it; as it was before afterwards."""
    try:
        before = POOL.read_text()
        if int(before) < COUNT:
            POOL.write_text(str(COUNT))
    except OSError:
        yield
        return
    try:
        yield
    finally:
        POOL.write_text(before)
