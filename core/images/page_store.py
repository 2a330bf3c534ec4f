"""Pages of a dump that come from elsewhere, into a directory of their own: what a page server writes.

Until finish() there is no pagemap; abandon() leaves nothing.
"""

import errno
import os
from pathlib import Path

from core.errors import ImageError, UsageError
from core.images import kinds
from core.images.pagemap import NO_IDS, PAGE_SIZE, DumpIds, PagemapReader, PagemapWriter
from core.images.parent_link import link_anew, parent_directory
from core.kernel.process_vm import Buffer
from core.memory.ranges import EMPTY, Ranges


class PageStore:
    """The pagemaps of one dump. `previous`: the parent directory, relative to `directory`."""

    def __init__(self, directory: Path, previous: str | None = None) -> None:
        if not directory.is_dir():
            raise UsageError(f"{directory}: is not a directory", hint="make it first")
        if any(name.startswith(("pagemap-", "pages-")) for name in os.listdir(directory)):
            raise UsageError(f"{directory}: holds pages already", hint="take an empty directory for each dump")
        if previous is not None:
            link_anew(directory, previous)
        self._directory = directory
        self._ids = NO_IDS
        self._writers: dict[int, PagemapWriter] = {}
        self._zero: dict[int, Ranges] = {}
        self.parents = self._read_parents(parent_directory(directory))

    def _read_parents(self, parent: Path | None) -> dict[int, PagemapReader]:
        found = {}
        for name in sorted(os.listdir(parent)) if parent is not None else []:
            if name.startswith("pagemap-") and not name.startswith("pagemap-shmem"):
                _, id = kinds.parse_file_name(name)
                assert parent is not None and id is not None
                found[id] = PagemapReader(parent, id)
        return found

    @property
    def parent_id(self) -> str:
        """Which dump the parent is; "" without one."""
        names = {reader.ids.dump for reader in self.parents.values()}
        if len(names) > 1:
            raise ImageError(str(self._directory), "the parent holds pages of several dumps")
        return names.pop() if names else ""

    def ids(self, dump_id: str, parent_id: str) -> None:
        """Which dump comes. OSError when the parent is another one than it was made against."""
        if parent_id != self.parent_id and parent_id:
            raise OSError(errno.EXDEV, "the parent directory here is of another dump")
        self._ids = DumpIds(dump_id, parent_id)

    def _writer(self, mm_id: int) -> PagemapWriter:
        if mm_id not in self._writers:
            pages_id = len(self._writers) + 1
            self._writers[mm_id] = PagemapWriter(self._directory, mm_id, pages_id=pages_id, ids=self._ids)
        return self._writers[mm_id]

    def land(self, mm_id: int, runs: Ranges, memory: Buffer) -> None:
        """The runs' pages, back to back, behind all that came before; the zero pages told last may lie between."""
        zero = self._zero.pop(mm_id, EMPTY)
        both = runs.union(zero)
        self._store(mm_id, both, memory if not zero else _with_zero(runs, memory, both))

    def _store(self, mm_id: int, runs: Ranges, memory: Buffer) -> None:
        writer = self._writer(mm_id)
        try:
            offsets = [writer.record(start, (end - start) // PAGE_SIZE) for start, end in runs]
            writer.store(offsets[0], memory)
        except ImageError as error:
            raise OSError(errno.EINVAL, error.message) from error

    def zero(self, mm_id: int, runs: Ranges) -> None:
        """Zero pages of the batch that comes next."""
        self._flush(mm_id)
        self._zero[mm_id] = runs

    def _flush(self, mm_id: int) -> None:
        zero = self._zero.pop(mm_id, EMPTY)
        for part in zero.split(1 << 20):
            self._store(mm_id, part, bytes(part.total))

    def parent(self, mm_id: int, runs: Ranges) -> None:
        """The parent has the runs."""
        has = self.parent_pages(mm_id)
        if runs.subtract(has):
            raise OSError(errno.ENODATA, "the parent directory here does not have these pages")
        try:
            for start, end in runs:
                self._writer(mm_id).in_parent(start, (end - start) // PAGE_SIZE)
        except ImageError as error:
            raise OSError(errno.EINVAL, error.message) from error

    def parent_pages(self, mm_id: int) -> Ranges:
        """What the parent has of a pagemap."""
        reader = self.parents.get(mm_id)
        return EMPTY if reader is None else Ranges.ordered((run.address, run.end) for run in reader)

    def finish(self) -> None:
        """All pages have come: the pagemaps appear."""
        for mm_id in list(self._zero):
            self._flush(mm_id)
        for writer in self._writers.values():
            writer.close()

    def abandon(self) -> None:
        """Leave nothing of it."""
        for writer in self._writers.values():
            writer.remove()


def _with_zero(runs: Ranges, memory: Buffer, both: Ranges) -> bytearray:
    """`memory` of `runs` laid out for `both`, zero where they have nothing."""
    content, given = bytearray(), memoryview(memory)
    for start, end in both:
        for is_run, (first, last) in _alternating(Ranges(((start, end),)), runs):
            if is_run:
                content += given[: last - first]
                given = given[last - first :]
            else:
                content += bytes(last - first)
    return content


def _alternating(whole: Ranges, runs: Ranges) -> list[tuple[bool, tuple[int, int]]]:
    pieces = [(True, span) for span in whole.intersect(runs)] + [(False, span) for span in whole.subtract(runs)]
    return sorted(pieces, key=lambda piece: piece[1])
