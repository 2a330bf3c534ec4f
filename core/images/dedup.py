"""Pages in the files of a chain of dumps that nobody needs any more: found, and given back to the disk.

A hole is punched where they were: the file keeps its size and the pages that count keep their place.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from core.errors import ImageError
from core.images import kinds
from core.images.kinds import is_image_name, is_pages_name, parse_file_name
from core.images.pagemap import PAGE_SIZE, PageFlags, PagemapReader, Run
from core.kernel.calls import syscall
from core.memory.ranges import Ranges

PUNCH_HOLE_KEEP_SIZE = 3  # linux/falloc.h: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE


def superseded(
    chain: Sequence[PagemapReader], used: Iterable[tuple[Run, PagemapReader]]
) -> Iterator[tuple[Run, PagemapReader]]:
    """Pages that are in the files of a chain although newer ones have taken their place."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for run, owner in used:
        spans.setdefault(owner.place, []).append((run.address, run.end))
    for owner in chain[1:]:
        there = Ranges.ordered((run.address, run.end) for run in owner.runs if PageFlags.PRESENT in run.flags)
        for start, end in there.subtract(Ranges.of(spans.get(owner.place, []))):
            yield from ((run, owner) for run in owner.overlapping(start, end))


def punch_superseded(directory: Path) -> int:
    """Give back what the parents of a finished dump hold and it does not need. Returns the pages given back."""
    return sum(_punch_parents(pagemap) for pagemap in _pagemaps(directory))


def _pagemaps(directory: Path) -> Iterator[PagemapReader]:
    for name in sorted(os.listdir(directory)):
        if is_image_name(name) and not is_pages_name(name):
            kind, id = parse_file_name(name)
            if id is not None and (kind is kinds.PAGEMAP or kind is kinds.SHMEM_PAGEMAP):
                yield PagemapReader(directory, id, kind=kinds.PAGEMAP if kind is kinds.PAGEMAP else kinds.SHMEM_PAGEMAP)


def _punch_parents(pagemap: PagemapReader) -> int:
    return _punch(superseded(pagemap.chain(), list(pagemap.resolved())))


def punch_restored(directory: Path) -> list[str]:
    """Give back every page that a process has been restored from: it cannot be again. It runs, so what fails is but a
    notice."""
    try:
        for pagemap in _pagemaps(directory):
            _punch(pagemap.resolved())
    except (ImageError, OSError) as error:
        return [f"--auto-dedup: {error}"]
    return []


def _punch(pages: Iterable[tuple[Run, PagemapReader]]) -> int:
    punched = 0
    for run, owner in pages:
        descriptor = os.open(owner.place, os.O_WRONLY | os.O_CLOEXEC)
        try:
            syscall("fallocate", descriptor, PUNCH_HOLE_KEEP_SIZE, run.offset or 0, run.nr_pages * PAGE_SIZE)
        except OSError as error:
            raise ImageError(owner.place, f"cannot have holes punched: {error.strerror}") from error
        finally:
            os.close(descriptor)
        punched += run.nr_pages
    return punched
