"""Fills the memory of skeletons from pages files, every page compared with its checksum first, several threads at once.

Starts nothing and maps nothing. Fresh anonymous memory is filled through a userfaultfd, the rest through /proc/PID/mem.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from core.errors import KernelLacks, RestoreError, TraceeError
from core.images.dedup import superseded
from core.images.pagemap import PagemapReader, Run
from core.kernel import userfaultfd
from core.kernel.calls import pidfd_open
from core.kernel.pages_file import NOWHERE, SUPERSEDED, FillTarget
from core.memory.file_pages import LandingFile
from core.memory.landing import LandingMemory
from core.memory.ranges import EMPTY, Ranges
from core.tracee.stem import Stem
from core.tracee.uffd_loan import open_uffd

CHUNK_BYTES = 4 << 20
THREADS = os.cpu_count() or 1

Piece = tuple[Run, PagemapReader, FillTarget]
"""Pages, the pagemap whose file has them, and where they go."""


@dataclass(frozen=True, slots=True)
class Filling:
    """A stopped skeleton to fill: its memory, and where nothing is in it yet (`fresh`, filled through `uffd`).

    `kept` are pages that it shares with others already: they are compared, and only written where they differ.
    """

    landing: LandingMemory
    fresh: Ranges = EMPTY
    uffd: int = -1
    kept: Ranges = EMPTY

    def targets(self, run: Run, kernel: Ranges) -> Iterator[tuple[Run, FillTarget]]:
        """The run in pieces, each with the way to fill it; what the kernel has its own of goes nowhere."""
        own, kernels = Ranges(((run.address, run.end),)), kernel.within(run.address, run.end)
        kept = self.kept.within(run.address, run.end).subtract(kernels)
        fresh = self.fresh.within(run.address, run.end).subtract(kernels).subtract(kept)
        rest = own.subtract(kernels).subtract(kept).subtract(fresh)
        ways = ((kernels, NOWHERE), (kept, self._shared()), (fresh, self._quick()), (rest, self._plain()))
        for ranges, target in ways:
            yield from ((run.clipped(start, end), target) for start, end in ranges)

    def _quick(self) -> FillTarget:
        return FillTarget(self.landing.mem_fd, self.uffd)

    def _shared(self) -> FillTarget:
        return FillTarget(self.landing.mem_fd, self.uffd, shared=True)

    def _plain(self) -> FillTarget:
        return FillTarget(self.landing.mem_fd)


@contextmanager
def filling(stem: Stem, landing: LandingMemory, kept: Ranges = EMPTY) -> Iterator[Filling]:
    """The skeleton, ready to be filled; nothing may run in it inside the block."""
    with ExitStack() as stack:
        try:
            pidfd = pidfd_open(stem.pid)
            stack.callback(os.close, pidfd)
            uffd = open_uffd(stem.borrow, stem.leader, pidfd)
            stack.callback(os.close, uffd)
            userfaultfd.enable_filling(uffd)
        except (OSError, KernelLacks, TraceeError):  # it is only the quicker way
            yield Filling(landing, kept=kept)
            return
        yield Filling(landing, _registered(uffd, landing.anonymous.subtract(landing.huge)), uffd, kept)


def _registered(uffd: int, ranges: Ranges) -> Ranges:
    done = []
    for start, end in ranges:
        with suppress(OSError):  # such memory goes the other way
            userfaultfd.register_missing(uffd, start, end)
            done.append((start, end))
    return Ranges(tuple(done))


def fill_all(jobs: Iterable[tuple[Filling, PagemapReader, Ranges]]) -> None:
    """Fill every skeleton with the pages of its pagemap and of the parents', but for those in the ranges, the kernel's.

    What nobody needs is checked all the same: ImageError names file and offset of a page that is not as it was written.
    """
    _fill(piece for job in jobs for piece in _pieces(*job))


def fill_parts(filling: Filling, parts: Iterable[tuple[PagemapReader, Ranges]]) -> None:
    """Fill a skeleton with some pages of several pagemaps, as fill_all does."""
    _fill(
        (piece, owner, target)
        for pagemap, wanted in parts
        for run, owner in pagemap.resolved()
        for start, end in wanted.intersect(Ranges(((run.address, run.end),)))
        for piece, target in filling.targets(run.clipped(start, end), EMPTY)
    )


def _fill(pieces: Iterable[Piece]) -> None:
    with PagesFiles() as files, ThreadPoolExecutor(THREADS) as pool:
        try:
            chunks = [
                pool.submit(_fill_chunk, run.clipped(start, start + CHUNK_BYTES), owner, files.of(owner), target)
                for run, owner, target in pieces
                for start in range(run.address, run.end, CHUNK_BYTES)
            ]
            for chunk in chunks:
                chunk.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def fill_file(fd: int, pagemap: PagemapReader) -> None:
    """Fill a file that is all holes with the pages of a pagemap and its parents, whose addresses are its offsets."""
    with PagesFiles() as files:
        for run, owner in pagemap.resolved():
            for start in range(run.address, run.end, CHUNK_BYTES):
                _fill_chunk(run.clipped(start, start + CHUNK_BYTES), owner, files.of(owner), FillTarget(fd))


def land_file(landing: LandingFile, pagemap: PagemapReader) -> None:
    """As fill_file, for a file that takes no write(2)."""
    with PagesFiles() as files:
        for run, owner in pagemap.resolved():
            for start in range(run.address, run.end, CHUNK_BYTES):
                piece = run.clipped(start, start + CHUNK_BYTES)
                landing.land(Ranges(((piece.address, piece.end),)), owner.read(piece, files.of(owner)))


def _pieces(filling: Filling, pagemap: PagemapReader, kernel: Ranges) -> Iterator[Piece]:
    used = list(pagemap.resolved())
    for run, owner in used:
        yield from ((piece, owner, target) for piece, target in filling.targets(run, kernel))
    for run, owner in superseded(pagemap.chain(), used):
        yield run, owner, SUPERSEDED


class PagesFiles(ExitStack):
    """The pages files of a chain of directories, each opened once."""

    def __init__(self) -> None:
        super().__init__()
        self._opened: dict[str, int] = {}

    def of(self, owner: PagemapReader) -> int:
        """A descriptor of the pages file beside this pagemap."""
        if owner.place not in self._opened:
            self._opened[owner.place] = descriptor = owner.open_pages()
            self.callback(os.close, descriptor)
        return self._opened[owner.place]


def _fill_chunk(run: Run, owner: PagemapReader, pages_fd: int, target: FillTarget) -> None:
    try:
        owner.fill(run, pages_fd, target)
    except OSError as error:
        place = f"pages {run.address:#x}-{run.end:#x}"
        raise RestoreError(f"{place}: cannot be written: {error.strerror}") from error
