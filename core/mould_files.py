"""The mould of a directory: which pages its tasks have in common. Images do not say, so they are compared.

Checksums are compared here, and the pages themselves by who fills them in.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping

from core.images.pagemap import PagemapReader, Run
from core.kernel.page_keys import Keys, no_keys
from core.kernel.pages_file import page_crcs
from core.memory.fill import Filling, PagesFiles, fill_parts
from core.memory.ranges import PAGE_SIZE, Ranges
from core.memory.sharing import Common, find_common
from core.memory_plan import MemoryPlan
from core.mould import candidates, vmas_with
from core.resources.vmas import MappedVma

IS_THERE = 1 << 32  # no checksum is as large


class StoredMould:
    """What the tasks of a directory have in common: by pid, their pagemaps and address spaces."""

    def __init__(self, pagemaps: Mapping[int, PagemapReader], memories: Mapping[int, MemoryPlan]) -> None:
        self._pagemaps = pagemaps
        self._mapped = {pid: memory.mapped for pid, memory in memories.items()}
        self._common = self._find() if len(pagemaps) > 1 else Common()

    def _find(self) -> Common:
        runs = {pid: list(pagemap.resolved()) for pid, pagemap in self._pagemaps.items()}
        carried = {pid: Ranges.ordered((run.address, run.end) for run, _ in own) for pid, own in runs.items()}
        with PagesFiles() as files:
            return find_common(
                candidates(self._mapped, carried),
                lambda part: {pid: _keys(own, part, files) for pid, own in runs.items()},
            )

    @property
    def mapped(self) -> tuple[MappedVma, ...]:
        """What has to be mapped in the mould."""
        return vmas_with(self._mapped.values(), self._common.pages)

    @property
    def kept(self) -> Mapping[int, Ranges]:
        """What each task seems to have of the mould's pages."""
        return self._common.kept

    def fill(self, filling: Filling) -> None:
        """Write it all into the mould."""
        fill_parts(filling, ((self._pagemaps[pid], ranges) for pid, ranges in self._common.owned.items()))


def _keys(runs: list[tuple[Run, PagemapReader]], part: Ranges, files: PagesFiles) -> Keys:
    """The checksums of a task's pages in `part`."""
    keys = no_keys(part.total_pages)
    for place, run, owner in _placed(runs, part):
        crcs = run.checksums or page_crcs(owner.read(run, files.of(owner)))
        keys[place : place + run.nr_pages] = array("Q", [crc | IS_THERE for crc in array("I", crcs)])
    return keys


def _placed(runs: list[tuple[Run, PagemapReader]], part: Ranges) -> Iterator[tuple[int, Run, PagemapReader]]:
    """The runs inside `part`, each with the place of its first page there."""
    starts = [run.address for run, _ in runs]
    place = 0
    for start, end in part:
        index = max(bisect_right(starts, start) - 1, 0)
        while index < len(runs) and runs[index][0].address < end:
            run, owner = runs[index]
            if run.end > start:
                clipped = run.clipped(start, end)
                yield place + (clipped.address - start) // PAGE_SIZE, clipped, owner
            index += 1
        place += (end - start) // PAGE_SIZE
