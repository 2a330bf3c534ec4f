"""What the processes of a live tree have in common, by the frames behind their pages: it travels once.

The order that loses nothing: look() at everybody, find_mould, send its pages, look() again, kept_of.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import MigrateError
from core.kernel.page_keys import Keys, no_keys
from core.live.process import LiveProcess
from core.memory.ranges import EMPTY, Ranges
from core.memory.sharing import Common, find_common, read_frames, same_pages
from core.memory_plan import memory_plan
from core.mould import candidates
from core.proc.reader import ProcReader
from core.tracee.family import has_ended

Processes = Mapping[int, LiveProcess]


@dataclass(slots=True)
class Casting:
    """What is to be sent before the tree is born over there, and whether that is on its way."""

    common: Common | None = None  # is on its way
    _told: tuple[object, ...] = ()  # what was born over there

    @property
    def owned(self) -> dict[int, Ranges]:
        """Who has what of it, by own pid."""
        return dict(self.common.owned) if self.common is not None else {}

    def lacks(self, own_pid: int, missing: Ranges) -> None:
        """Pages of it that could not be read."""
        if missing:
            self.common = Common(self.owned | {own_pid: self.owned[own_pid].subtract(missing)})

    def cast(self, processes: Processes, shape: tuple[object, ...]) -> Mapping[int, Ranges]:
        """What is to be sent before a tree of this shape is born; when that was sent, who keeps what of it."""
        if self.common is not None:
            kept, self.common = kept_of(self.common, processes), None
            for process in processes.values():
                process.begin_anew(kept.get(process.own_pid, EMPTY))
        elif _may_share(processes) and shape != self._told:
            common = find_mould(processes)
            if common.owned:
                self.common = common
                return common.owned
        self._told = shape
        return {}


def _may_share(processes: Processes) -> bool:
    return len(processes) > 1 and not any(process.compares for process in processes.values())


def find_mould(processes: Processes) -> Common:
    """What they have in common now, by the pids that they call themselves; an ancestor is asked before its children."""
    carried = {process.own_pid: process.there() for process in processes.values()}
    mapped = {process.own_pid: memory_plan(process.memory, process.own_pid).mapped for process in processes.values()}
    return find_common(
        candidates(mapped, carried),
        lambda part: {process.own_pid: _frames(process, part) for process in processes.values()},
    )


def kept_of(common: Common, processes: Processes) -> dict[int, Ranges]:
    """What each has of the mould, whose pages were read after they were found to be common and before the last look.

    A page counts whose owner has not written to it since (it is not pending: what was read is what it still is) and
    still has one, and where the other has that very page. Who writes to it from now on has it pending next time.
    """
    by_own_pid = {process.own_pid: process for process in processes.values()}
    kept: dict[int, Ranges] = {}
    for own_pid, owned in common.owned.items():
        owner = by_own_pid.get(own_pid)
        if owner is None:
            continue
        still = owned.subtract(owner.pending).intersect(owner.there())
        frames = _frames(owner, still)
        found = {process.own_pid: same_pages(still, frames, _frames(process, still)) for process in by_own_pid.values()}
        unmoved = same_pages(still, frames, _frames(owner, still))  # frames may be given to other pages meanwhile
        for pid, ranges in found.items():
            kept[pid] = kept.get(pid, Ranges()).union(ranges.intersect(unmoved))
    return {pid: ranges for pid, ranges in kept.items() if ranges}


def _frames(process: LiveProcess, spans: Ranges) -> Keys:
    """None for who has just ended."""
    try:
        return read_frames(process.pid, spans)
    except (MigrateError, OSError):
        if not (process.is_over or has_ended(process.pid, ProcReader())):
            raise
        return no_keys(spans.total_pages)
