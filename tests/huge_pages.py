"""Huge pages of 2 MiB for tests: the pool may grow while a session of tests runs, and not after it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TextIO

POOL: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_overcommit_hugepages")
NOTE: Final = Path("/run/migrate-tests-huge-pages")
COUNT: Final = 256


def has_huge_pages() -> bool:
    """Some can be had on demand."""
    try:
        return int(POOL.read_text()) >= COUNT
    except OSError:
        return False


@contextmanager
def huge_pages_on_demand(pool: Path = POOL, note: Path = NOTE) -> Iterator[None]:
    """COUNT of them, if we may allow it. Sessions may overlap, and be killed: the last that ends gives back what was
    there before the first. `note` holds that figure; every session has a shared lock on it."""
    try:
        users = open(note, "a+")
    except OSError:
        yield
        return
    with users:
        fcntl.flock(users, fcntl.LOCK_SH)  # waits for who is giving back
        _allow(pool, note)
        try:
            yield
        finally:
            _give_back(pool, note, users)


def _allow(pool: Path, note: Path) -> None:
    with suppress(OSError):
        before = pool.read_text()  # first: whoever raised it has written its note by then
        if int(before) < COUNT:
            if not note.read_text():
                note.write_text(before)
            pool.write_text(str(COUNT))


def _give_back(pool: Path, note: Path, users: TextIO) -> None:
    with suppress(OSError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not the last: BlockingIOError
        if before := note.read_text():
            pool.write_text(before)
            note.write_text("")
