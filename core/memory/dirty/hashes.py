"""Dirty tracking without any help of the kernel: every page is hashed as it goes to the copy, and compared each round.

Slow (each round reads all memory), always there. Stops nothing: what changes after it was read differs next time.
"""

import time
from array import array
from collections.abc import Iterator, Sequence

from core.kernel import process_vm
from core.memory.dirty import DirtyRound, LastRound, SharedWrites
from core.memory.pages import PageBatch, ReadPageReader
from core.memory.present import PageSets, read_page_sets, spans_of
from core.memory.ranges import PAGE_SIZE, Ranges, Span
from core.proc.maps import Vma

CHUNK_PAGES = 256
CHUNK_BYTES = CHUNK_PAGES * PAGE_SIZE


class PageHashes:
    """Hash by page, kept in chunks of 1 MiB of address space. Pure."""

    def __init__(self) -> None:
        self._chunks: "dict[int, array[int]]" = {}

    def store(self, runs: Ranges, hashes: "array[int]") -> None:
        """The pages of `runs` have these hashes, in order."""
        for start, first, count in _pieces(runs):
            chunk = self._chunks.get(start // CHUNK_BYTES)
            if chunk is None:
                chunk = self._chunks[start // CHUNK_BYTES] = array("Q", bytes(8 * CHUNK_PAGES))
            at = start % CHUNK_BYTES // PAGE_SIZE
            chunk[at : at + count] = hashes[first : first + count]

    def differing(self, runs: Ranges, hashes: "array[int]") -> Iterator[Span]:
        """The pages of `runs` whose hashes are not these, ascending."""
        for start, first, count in _pieces(runs):
            chunk = self._chunks.get(start // CHUNK_BYTES)
            if chunk is None:
                yield start, start + count * PAGE_SIZE
                continue
            at = start % CHUNK_BYTES // PAGE_SIZE
            known, found = chunk[at : at + count], hashes[first : first + count]
            if known == found:
                continue
            for index in range(count):
                if known[index] != found[index]:
                    yield start + index * PAGE_SIZE, start + (index + 1) * PAGE_SIZE

    def first_other(self, start: int, end: int, than: int) -> int | None:
        """The first page of [start, end) that is known and has another hash."""
        for piece, _, count in _pieces(Ranges(((start, end),))):
            chunk = self._chunks.get(piece // CHUNK_BYTES)
            at = piece % CHUNK_BYTES // PAGE_SIZE
            for index, known in enumerate(chunk[at : at + count] if chunk is not None else ()):
                if known not in (0, than):
                    return piece + index * PAGE_SIZE
        return None

    def forget(self, lost: Ranges) -> None:
        """Nothing is known of these pages."""
        for number, chunk in list(self._chunks.items()):
            base = number * CHUNK_BYTES
            for start, end in lost.intersect(Ranges(((base, base + CHUNK_BYTES),))):
                first, last = (start - base) // PAGE_SIZE, -(-(end - base) // PAGE_SIZE)
                chunk[first:last] = array("Q", bytes(8 * (last - first)))
            if not any(chunk):
                del self._chunks[number]


def _pieces(runs: Ranges) -> Iterator[tuple[int, int, int]]:
    """Runs cut where chunks end: (address, index of its first page among all pages of the runs, pages)."""
    done = 0
    for start, end in runs:
        while start < end:
            stop = min(end, start - start % CHUNK_BYTES + CHUNK_BYTES)
            count = (stop - start) // PAGE_SIZE
            yield start, done, count
            done += count
            start = stop


class HashTracker:
    """Tracks `pid`; `exclude` is left alone (our own area in the process)."""

    needs_stop = False
    by_content = True

    def __init__(self, pid: int, exclude: Ranges) -> None:
        self._pid = pid
        self._exclude = exclude
        self._key = process_vm.make_hash_key()
        self._copied = PageHashes()

    def close(self) -> None:
        """See DirtyTracker: there is nothing to give back."""

    def keep_pending(self, missing: Ranges) -> None:
        """See DirtyTracker: what did not go to the copy differs from it anyway."""

    def note_read(self, batch: PageBatch) -> None:
        """See DirtyTracker."""
        self._copied.store(batch.runs, process_vm.hash_pages(batch.memory, self._key))

    def forget(self, lost: Ranges) -> None:
        """See DirtyTracker."""
        self._copied.forget(lost)

    def present(self, vmas: Sequence[Vma]) -> Ranges:
        """See DirtyTracker."""
        return read_page_sets(self._pid, vmas, self._exclude).carried

    def collect_and_rearm(self, vmas: Sequence[Vma]) -> DirtyRound:
        """See DirtyTracker."""
        return self.collect_last(vmas).dirty

    def collect_shared(self, vmas: Sequence[Vma], *, last: bool = False) -> SharedWrites:
        """See DirtyTracker: nothing is known but what the content tells."""
        return SharedWrites(unknown=spans_of(vmas))

    def collect_last(self, vmas: Sequence[Vma]) -> LastRound:
        """See DirtyTracker."""
        began = time.monotonic()
        pages = read_page_sets(self._pid, vmas, self._exclude)
        changed = Ranges.ordered(self._changed(pages))
        return LastRound(DirtyRound(changed, pages.zero, pages.guard, time.monotonic() - began), pages)

    def _changed(self, pages: PageSets) -> Iterator[Span]:
        with ReadPageReader(self._pid, keep_shared=True) as reader:
            for batch in reader.batches(pages.carried):
                yield from self._copied.differing(batch.runs, process_vm.hash_pages(batch.memory, self._key))
